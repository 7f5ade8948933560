defmodule Snakepit.Faults.Limits do
  @moduledoc false
  # Descriptors and memory run out, in the BEAM and in workers, and become available again.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.OS
  alias Snakepit.GRPC.Client

  def trials do
    [
      %{
        name: "descriptors-beam",
        about: "the BEAM runs out of descriptors while workers die, then has some again",
        short: true,
        run: &descriptors_beam/1
      },
      %{
        name: "descriptors-worker",
        about: "a worker runs out of descriptors for connections, then has some again",
        short: true,
        run: &descriptors_worker/1
      },
      %{
        name: "memory-worker",
        about: "a command uses up the memory that its worker may have (RLIMIT_AS)",
        short: true,
        run: &memory_worker/1
      }
    ]
  end

  defp descriptors_beam(what) do
    # Load everything first: loading later would need descriptors.
    for {application, _, _} <- Application.loaded_applications(),
        {:ok, modules} <- [:application.get_key(application, :modules)],
        do: Enum.each(modules, &Code.ensure_loaded/1)

    pools =
      for {kind, options} <- kinds() do
        fallback =
          if kind == :stdio, do: [], else: [fallback_adapter: Snakepit.Adapters.GenericPythonV2]

        {kind, start_pool!([size: 1] ++ fallback ++ options)}
      end

    for _ <- 1..times(what, 1, 5) do
      {_, 0} =
        System.cmd("prlimit", [
          "--pid",
          System.pid(),
          "--nofile=#{OS.descriptors(OS.own_pid()) + 50}:"
        ])

      taken = take_descriptors([])

      for {kind, {pool, _}} <- pools do
        outcome = outcome(execute(pool, "die", timeout: 60_000))
        must(outcome == :worker_crashed, "#{kind}: a worker that ended: #{inspect(outcome)}")

        # Starting a worker fails: its callers get an error, or wait for as long as they asked.
        # The descriptors of the worker that has ended may be just enough for the next one.
        outcome = outcome(execute(pool, "ping", timeout: 2_000))

        expected =
          outcome in [
            :ok,
            :timeout,
            :queue_timeout,
            :worker_start_failed,
            :not_ready,
            :grpc_unavailable
          ]

        must(expected, "#{kind}: a call with no descriptor left ended with #{inspect(outcome)}")
        figure("#{kind}: meanwhile", outcome)
      end

      # Take the descriptors that the ended workers have freed, too.
      for file <- taken, do: :file.close(file)

      for {kind, {pool, _}} <- pools do
        ready!(pool)
        outcome = outcome(execute(pool, "ping", timeout: 60_000))

        must(
          outcome == :ok,
          "#{kind}: with descriptors again a call ended with #{inspect(outcome)}"
        )

        {:ok, stats} = Snakepit.stats(pool)

        must(
          stats.fallback in [false, nil],
          "#{kind}: the pool gave gRPC up for a lack of descriptors"
        )

        figure("#{kind}: restarts", stats.restarts)
        must(stats.restarts < 100, "#{kind}: #{stats.restarts} restarts")
      end
    end

    stop_pools(for {_, pool} <- pools, do: pool)
  end

  defp take_descriptors(taken) do
    case :file.open("/dev/null", [:read, :raw]) do
      {:ok, file} -> take_descriptors([file | taken])
      {:error, :emfile} -> taken
    end
  end

  defp execute(pool, command, options) do
    Snakepit.execute(command, %{}, [pool: pool, queue_timeout: 60_000] ++ options)
  end

  defp descriptors_worker(what) do
    for server <- times(what, [:native], [:native, :grpcio]), transport <- [:unix, :tcp] do
      {pool, supervisor} = start_pool!(size: 1, server: server, transport: transport)
      [os_pid] = OS.workers(pool)
      address = OS.address(os_pid)
      {:ok, %{"result" => open}} = Snakepit.execute("open_descriptors", %{}, pool: pool)

      {:ok, %{"result" => limit}} =
        Snakepit.execute("limit_descriptors", %{count: open + 10}, pool: pool)

      # Several times those that it has descriptors for. Once the backlog is full, each takes as long as it may.
      attempts = times(what, 60, 200)
      sockets = for _ <- 1..attempts, {:ok, socket} <- [connect(address)], do: socket
      outcome = outcome(execute(pool, "ping", timeout: 60_000))

      must(
        outcome == :ok,
        "#{server}, #{transport}: a call beside it ended with #{inspect(outcome)}"
      )

      for socket <- sockets, do: :gen_tcp.close(socket)

      if transport == :unix do
        wait("#{server}: the worker accepts connections again", fn ->
          match?({:ok, _}, Client.connect(address, timeout: 5_000))
        end)
      end

      {:ok, _} = Snakepit.execute("limit_descriptors", %{count: limit}, pool: pool)

      must(
        OS.workers(pool) == [os_pid],
        "#{server}, #{transport}: the worker did not withstand it"
      )

      figure("#{server}, #{transport}: connections", length(sockets))
      stop_pools([{pool, supervisor}])
    end
  end

  defp connect("unix:" <> path),
    do: :gen_tcp.connect({:local, path}, 0, [:local, active: false], 200)

  defp connect("tcp:" <> rest) do
    [_, port] = String.split(rest, ":")
    :gen_tcp.connect({127, 0, 0, 1}, String.to_integer(port), [active: false], 200)
  end

  defp memory_worker(what) do
    for {kind, options} <- kinds() do
      {pool, supervisor} = start_pool!([size: 1] ++ options)

      for _ <- 1..times(what, 1, 10) do
        [os_pid] = OS.workers(pool)

        result =
          Snakepit.execute("exhaust_memory", %{megabytes: 200},
            pool: pool,
            timeout: 60_000,
            queue_timeout: 60_000
          )

        outcome = outcome(result)

        must(
          outcome in [:python_error, :worker_crashed],
          "#{kind}: a command without memory ended with #{inspect(outcome)}"
        )

        ready!(pool)
        next = outcome(execute(pool, "ping", timeout: 60_000))
        must(next == :ok, "#{kind}: the next call ended with #{inspect(next)}")

        figure(
          "#{kind}:",
          "#{outcome}, #{if OS.workers(pool) == [os_pid], do: "same", else: "new"} worker"
        )
      end

      stop_pools([{pool, supervisor}])
    end
  end
end
