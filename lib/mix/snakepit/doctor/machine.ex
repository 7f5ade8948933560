defmodule Mix.Snakepit.Doctor.Machine do
  @moduledoc false
  # The checks that do not depend on a pool: Elixir, the native library, the temporary directory,
  # the limits of the system.

  import Mix.Snakepit, only: [shown: 1]
  import Mix.Snakepit.Check

  alias Snakepit.Config.Paths
  alias Snakepit.Native
  alias Snakepit.Pool.RuntimeDir

  @elixir "1.14.0"
  @otp 25

  @doc "Elixir and Erlang/OTP."
  def elixir do
    versions = "#{System.version()}, Erlang/OTP #{System.otp_release()}"

    if Version.match?(System.version(), ">= #{@elixir}") and
         String.to_integer(System.otp_release()) >= @otp,
       do: ok("Elixir", versions),
       else:
         failed("Elixir", versions, "install Elixir #{@elixir} and Erlang/OTP #{@otp}, or newer")
  end

  @doc "The library that the BEAM loads, and the launcher of workers."
  def native do
    library = priv("native/snakepit_nif.so")

    case Native.load_error() do
      nil -> ok("native library", "#{shown(library)} for #{system()}")
      error -> failed("native library", error <> built_for(library), build())
    end
  end

  def launcher do
    launcher = priv("native/snakepit_launcher")

    if System.find_executable(launcher),
      do: ok("launcher", shown(launcher)),
      else: failed("launcher", "#{shown(launcher)} does not exist or is not executable", build())
  end

  @doc "The directory of the Unix sockets, created and removed as a pool does."
  def temporary_directory do
    if Native.load_error() do
      skipped("socket directory", "needs the native library")
    else
      {:ok, server} = RuntimeDir.start_link(root: Paths.root())
      path = RuntimeDir.path(server, 60_000)
      GenServer.stop(server)

      case path do
        {:ok, path} ->
          ok("socket directory", "#{path |> Path.dirname() |> Path.dirname()} is writable")

        {:error, message} ->
          failed("socket directory", message, "export TMPDIR=/a/short/path")
      end
    end
  end

  # What a worker has taken when measured, rounded up: 7 files of the BEAM, for its pipes, its port and
  # its connection, and 5 threads of its own. Each concurrent command may have one more.
  @files_per_worker 8
  @processes_per_worker 8
  # What else the applications may open and start, beside what the BEAM has now.
  @files 64
  @processes 32

  @doc "The limits for open files and processes, for pools of these sizes. `read` is for tests."
  def limits(pools, read \\ read_limits()) do
    workers = pools |> Enum.map(& &1.size) |> Enum.sum()
    threads = pools |> Enum.map(&(&1.size * &1.max_concurrency)) |> Enum.sum()
    files = read.files.used + @files + @files_per_worker * workers
    processes = read.processes.used + @processes + @processes_per_worker * workers + threads

    [
      limit(
        "open files",
        read.files.limit,
        files,
        "ulimit -n #{files}, or LimitNOFILE= in the systemd unit"
      ),
      limit(
        "processes",
        read.processes.limit,
        processes,
        "ulimit -u #{processes}; in a systemd unit TasksMax= and LimitNPROC=, in a container its limit of pids"
      )
    ]
  end

  defp limit(name, :unlimited, _needed, _fix), do: ok(name, "no limit")

  defp limit(name, limit, needed, _fix) when limit >= needed,
    do: ok(name, "#{limit} allowed, about #{needed} are needed at most")

  defp limit(name, limit, needed, fix),
    do: failed(name, "#{limit} allowed, about #{needed} may be needed", fix)

  defp read_limits do
    {files, processes} =
      case File.read("/proc/self/limits") do
        {:ok, text} -> {row(text, "Max open files"), row(text, "Max processes")}
        {:error, _} -> {ulimit("-n"), ulimit("-u")}
      end

    %{
      files: %{used: open_files(), limit: files},
      processes: %{used: threads(), limit: Enum.min([processes | group_limits()])}
    }
  end

  defp open_files do
    case File.ls("/dev/fd") do
      {:ok, files} -> length(files)
      {:error, _} -> 0
    end
  end

  defp threads do
    kinds = [:schedulers, :dirty_cpu_schedulers, :dirty_io_schedulers, :thread_pool_size]
    kinds |> Enum.map(&:erlang.system_info/1) |> Enum.sum()
  end

  # Atoms are greater than numbers: `:unlimited` is the maximum.
  defp row(text, name) do
    case Regex.run(~r/^#{name} +(\S+)/m, text) do
      [_row, limit] -> number(limit)
      nil -> :unlimited
    end
  end

  defp ulimit(option),
    do: ~c"ulimit #{option}" |> :os.cmd() |> to_string() |> String.trim() |> number()

  @doc "The limits of processes of the control groups. `root` is for tests."
  def group_limits(root \\ "/") do
    groups =
      case File.read(Path.join(root, "proc/self/cgroup")) do
        {:ok, text} -> Regex.scan(~r"^(?:0::|\d+:pids:)(/.*)$"m, text, capture: :all_but_first)
        {:error, _} -> []
      end

    # A container sees its own limit at the root, and that of a group above counts as well.
    for path <-
          ["/" | List.flatten(groups)] |> Enum.flat_map(&Mix.Snakepit.parents/1) |> Enum.uniq(),
        folder <- ["sys/fs/cgroup", "sys/fs/cgroup/pids"],
        {:ok, text} <- [File.read(Path.join([root, folder, path, "pids.max"]))],
        do: number(String.trim(text))
  end

  defp number(text) do
    case Integer.parse(text) do
      {number, ""} -> number
      _ -> :unlimited
    end
  end

  # The machines of the header of an ELF file.
  @machines %{
    0x3E => "x86_64",
    0xB7 => "aarch64",
    0x28 => "arm",
    0xF3 => "riscv64",
    0x03 => "i386"
  }

  defp built_for(library) do
    with {:ok, file} <- File.open(library, [:read, :binary]),
         header = IO.binread(file, 20),
         :ok <- File.close(file),
         <<0x7F, "ELF", _ident::binary-12, _type::16, machine::16-little>> <- header,
         %{^machine => name} <- @machines,
         false <- String.starts_with?(system(), name) do
      "; it is built for #{name}, and this is #{system()}"
    else
      _ -> ""
    end
  end

  defp system, do: to_string(:erlang.system_info(:system_architecture))

  defp priv(path), do: Application.app_dir(:snakepit, Path.join("priv", path))

  defp build do
    if Mix.Project.config()[:app] == :snakepit,
      do: "mix compile --force",
      else: "mix deps.compile snakepit --force"
  end
end
