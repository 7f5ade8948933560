# mix run examples/training_sessions/training_sessions.exs
#
# Two users teach a model each. The models stay in the workers, in `context.session`: no call carries one.
# The users' calls run at the same time, and each finds the model of its own session.

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Lessons,
    size: 2,
    startup_timeout: 120_000,
    adapter_args: [class: "training_sessions:Lessons", paths: [__DIR__]],
    python: Path.join(__DIR__, "../.venv/bin/python"),
    # For such small models, further threads would only wait for each other.
    thread_limit: 1
  )

:ok = Snakepit.Pool.await_ready(Lessons, 120_000)

learn = fn user, digits ->
  session = [pool: Lessons, session_id: user, timeout: 120_000]
  {:ok, args} = Snakepit.execute("images_of", %{digits: digits, count: 200}, session)
  {:ok, %{"accuracy" => accuracy, "seen" => seen}} = Snakepit.execute("learn", args, session)
  "#{user} has seen #{seen} images, and reads #{round(100 * accuracy)}% of others correctly"
end

for lesson <- [0..2, 0..5, 0..9, 0..9] do
  [{"ada", Enum.to_list(lesson)}, {"bob", [3, 8]}]
  |> Enum.map(fn {user, digits} -> Task.async(fn -> learn.(user, digits) end) end)
  |> Task.await_many(:infinity)
  |> Enum.each(&IO.puts/1)
end

for user <- ~w(ada bob), do: :ok = Snakepit.end_session(user, pool: Lessons)
{:ok, %{sessions: sessions}} = Snakepit.stats(Lessons)
IO.puts("sessions left: #{sessions}")
