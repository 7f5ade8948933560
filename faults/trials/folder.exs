defmodule Snakepit.Faults.Folder do
  @moduledoc false
  # The temporary directory is cleaned while pools run.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.OS

  def trials do
    [
      %{
        name: "folder",
        about: "the pools' directories are removed, calls continue, then every worker is killed",
        short: true,
        run: &removed/1
      },
      %{
        name: "foreign-folders",
        about: "directories that only look like those of a killed pool are left alone",
        short: true,
        run: &foreign/1
      }
    ]
  end

  defp removed(what) do
    pools = for {kind, options} <- kinds(), do: {kind, start_pool!(options)}

    for _ <- 1..times(what, 1, 20) do
      for folder <- folders(), do: File.rm_rf!(folder)

      killed =
        for {kind, {pool, _}} <- pools do
          answers!(pool, "#{kind}: without its folder")
          os_pids = OS.workers(pool)
          OS.signal(os_pids, "KILL")
          {kind, pool, os_pids}
        end

      for {kind, pool, os_pids} <- killed do
        replaced(pool, os_pids, "#{kind}: workers start again without the folder")
        answers!(pool, "#{kind}: after its workers were killed")
      end
    end

    sockets =
      for folder <- folders(),
          name <- File.ls!(folder),
          String.ends_with?(name, ".sock"),
          do: name

    figure("sockets of 4 gRPC workers", length(sockets))
    must(length(sockets) <= 4, "killed workers left their sockets: #{inspect(sockets)}")
    stop_pools(for {_, pool} <- pools, do: pool)
  end

  defp answers!(pool, text) do
    result =
      Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, timeout: 60_000, queue_timeout: 60_000)

    must(
      match?({:ok, %{"result" => 3}}, result),
      "#{text} a call ended with #{inspect(outcome(result))}"
    )
  end

  defp folders, do: Path.wildcard(Path.join(System.tmp_dir!(), "snakepit-*"))

  # Each has a file that must not be deleted.
  defp foreign(_what) do
    names = %{
      "snakepit-results" => fn folder -> File.write!(Path.join(folder, "owner"), "me") end,
      "snakepit-0123456789abcdef" => fn folder -> File.mkdir!(Path.join(folder, "owner")) end,
      "snakepit-fedcba9876543210" => fn folder ->
        File.write!(Path.join(folder, "owner"), "me")
      end,
      # It has the right form and owner but another mode, so no killed pool has left it.
      "snakepit-aaaaaaaaaaaaaaaa" => fn folder ->
        refuse(Path.join(folder, "owner"))
        File.chmod!(folder, 0o755)
      end
    }

    kept =
      for {name, make} <- names do
        folder = Path.join(System.tmp_dir!(), name)
        File.mkdir_p!(Path.join(folder, "sub"))
        make.(folder)

        for file <- ["thesis", "sub/data"] do
          path = Path.join(folder, file)
          File.write!(path, "kept")
          path
        end
      end

    elsewhere = Path.join(System.tmp_dir!(), "elsewhere")
    File.mkdir_p!(elsewhere)
    File.chmod!(elsewhere, 0o700)
    refuse(Path.join(elsewhere, "owner"))
    File.write!(Path.join(elsewhere, "kept"), "kept")
    File.ln_s!(elsewhere, Path.join(System.tmp_dir!(), "snakepit-bbbbbbbbbbbbbbbb"))

    for {_kind, options} <- kinds() do
      {_pool, supervisor} = start_pool!([size: 1] ++ options)
      Supervisor.stop(supervisor)
    end

    kept = [Path.join(elsewhere, "kept") | List.flatten(kept)]
    lost = Enum.reject(kept, &File.exists?/1)
    figure("files kept", "#{length(kept) - length(lost)} of #{length(kept)}")
    must(lost == [], "starting a pool deleted #{inspect(lost)}")
  end

  # A socket that nobody listens on any more.
  defp refuse(path) do
    {:ok, socket} = :gen_tcp.listen(0, ifaddr: {:local, path})
    :gen_tcp.close(socket)
    true
  end
end
