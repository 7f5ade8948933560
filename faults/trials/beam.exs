defmodule Snakepit.Faults.BeamKilled do
  @moduledoc false
  # Kills the BEAM: no worker process remains, and the next pool removes its directory.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Beam, OS}

  @situations ~w(idle starting calls streams two-way stopping restarting)

  def trials do
    for situation <- @situations do
      %{
        name: "beam-#{situation}",
        about: "kill -9 of the BEAM: #{about(situation)}",
        short: situation in ~w(calls two-way restarting),
        run: &killed(situation, &1)
      }
    end
  end

  defp about("idle"), do: "all workers idle"
  defp about("starting"), do: "while its workers start"
  defp about("calls"), do: "during calls, one of which holds Python's lock"
  defp about("streams"), do: "during streams"
  defp about("two-way"), do: "while commands ask tools and read input streams"
  defp about("stopping"), do: "while its pools stop"
  defp about("restarting"), do: "while a worker of each pool is restarted"

  defp killed(situation, what) do
    for _ <- 1..times(what, 1, 3), do: once(situation)
    # The next pool in that directory removes what is left.
    {pool, supervisor} = start_pool!([])
    folders = length(Path.wildcard(Path.join(System.tmp_dir!(), "snakepit-*")))

    must(
      folders == 1,
      "beside that of a new pool there are #{folders - 1} folders of killed BEAMs"
    )

    stop_pools([{pool, supervisor}])
  end

  defp once(situation) do
    hold = Path.join(System.tmp_dir!(), "hold")
    if situation == "starting", do: File.touch!(hold), else: File.rm(hold)
    beam = situation |> Beam.start!(hold: hold) |> Beam.await("ready")
    pattern = "--worker-id\0:victim#{beam.os_pid}_"
    # Each pool starts two workers.
    wait("the workers' processes are there", fn -> length(OS.matching(pattern)) == 6 end)
    os_pids = OS.matching(pattern)
    started = now()
    OS.signal(beam.os_pid, "KILL")
    {lines, _status} = Beam.finish(beam)
    children = for "child " <> os_pid <- lines, do: String.to_integer(os_pid)
    gone(os_pids ++ children, "a process outlives a BEAM killed: #{situation}")
    # The guides say that these processes stay.
    apart = for "apart " <> os_pid <- lines, do: String.to_integer(os_pid)
    figure("processes", length(os_pids ++ children))
    figure("gone after", "#{now() - started} ms")

    if apart != [],
      do: figure("processes left that called setsid", Enum.count(apart, &OS.alive?/1))

    OS.signal(apart, "KILL")
    File.rm(hold)
    must(OS.matching(pattern) == [], "a worker was started after its BEAM's death")
  end
end
