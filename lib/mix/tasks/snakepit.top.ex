defmodule Mix.Tasks.Snakepit.Top do
  @shortdoc "Shows pools and their workers live in the terminal"

  @moduledoc """
  Shows pools and their workers live in the terminal, drawn once a second.

      $ mix snakepit.top --node my_app@127.0.0.1 --cookie secret

      snakepit top  my_app@127.0.0.1  12:03:04  rates of the last 10 s

      MyApp.Python
        4 of 4 ready   812.4 calls/s   0.2 errors/s
        execution p50 1.1 ms  p90 2.3 ms  p99 4.8 ms   queue p50 3 us  p90 9 us  p99 1.2 ms
        in flight 3   queued 0   sessions 12   restarts 0   memory 182.3 MiB
        worker                    state         pid calls  requests errors    memory   cpu      up
        MyApp.Python/1            ready       41225     1     20311      4  45.6 MiB  38 %  12 min
      ...
      last errors
        12:03:01  MyApp.Python  divide: python_error: ZeroDivisionError: division by zero

  `q` or Ctrl-C ends it. It needs nothing but a terminal, also over ssh. If the output is not a
  terminal, it prints plain text.

  Without `--node` it starts the applications of this project and shows their pools. With `--node`
  it connects to a running node, such as a release, as a hidden node. It starts nothing there but a
  process that keeps the last errors, which ends when the view ends.

  Rates are those of the last 10 seconds, and begin with the view. Times are those of the last minute,
  as `Snakepit.stats/1` has them: the wait for a worker, and everything after it. The progress that running
  calls have reported (`context.progress`) is shown below their worker. The errors of calls need the library
  `:telemetry` on the node.

  ## Options

    * `--node` - the node to show, `name@host`
    * `--cookie` - its cookie; by default that of `~/.erlang.cookie`
    * `--once` - prints one view, of one second, as plain text, and ends
  """
  use Mix.Task

  alias Mix.Snakepit.Top.{Remote, Terminal, View}

  @switches [node: :string, cookie: :string, once: :boolean]

  # Between two samples, in ms.
  @interval 1_000
  # How many samples the rates are of.
  @kept 11

  @impl true
  def run(args) do
    Mix.Snakepit.run(__MODULE__, args, @switches, fn options, rest ->
      Mix.Snakepit.no_arguments!(__MODULE__, rest)
      node = node!(options)
      start_sampler(node)

      if options[:once],
        do: print(View.plain(View.lines(take(2)))),
        else: show()
    end)
  end

  defp node!(options) do
    case options[:node] do
      nil ->
        if options[:cookie], do: Mix.Snakepit.usage!(__MODULE__, "--cookie needs --node")
        Mix.Task.run("app.start")
        node()

      name ->
        Remote.connect!(name, options[:cookie])
    end
  end

  # Samples in a process of its own: a worker that does not answer must not delay a key.
  defp start_sampler(node) do
    view = self()

    spawn_link(fn ->
      try do
        sample(node, Remote.collect!(node), view)
      rescue
        error in Mix.Error -> send(view, {:lost, error})
      end
    end)
  end

  defp sample(node, collector, view) do
    send(view, {:sample, Remote.sample!(node, collector)})
    Process.sleep(@interval)
    sample(node, collector, view)
  end

  defp take(count) do
    for(_ <- 1..count, do: next()) |> Enum.reverse()
  end

  defp next do
    receive do
      {:sample, sample} -> sample
      {:lost, error} -> raise error
    end
  end

  defp show do
    case Terminal.open() do
      :none ->
        print_each([])

      {:ok, terminal} ->
        # Log lines would be written over the view.
        :logger.set_primary_config(:level, :none)
        view = self()
        spawn_link(fn -> read_keys(view) end)

        try do
          draw_each([], terminal)
        after
          Terminal.close(terminal)
        end
    end
  end

  defp print_each(samples) do
    samples = Enum.take([next() | samples], @kept)
    print([View.plain(View.lines(samples)), ?\n])
    print_each(samples)
  end

  defp draw_each(samples, terminal) do
    receive do
      {:sample, sample} ->
        samples = Enum.take([sample | samples], @kept)
        IO.write(View.screen(View.lines(samples), Terminal.size(terminal)))
        draw_each(samples, terminal)

      {:lost, error} ->
        raise error

      # 3 is Ctrl-C.
      {:key, key} when key in ["q", "Q", <<3>>, :eof] ->
        :ok

      {:key, _other} ->
        draw_each(samples, terminal)
    end
  end

  defp read_keys(view) do
    case IO.getn("", 1) do
      key when is_binary(key) ->
        send(view, {:key, key})
        read_keys(view)

      _closed ->
        send(view, {:key, :eof})
    end
  end

  defp print(text), do: IO.write(text)
end
