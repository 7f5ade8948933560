defmodule Snakepit.Bench.Cost do
  @moduledoc false

  @help """
  MIX_ENV=prod mix run bench/cost.exs [options]

  Measures what calls cost in CPU time, context switches and system calls, and how fast they are,
  beside yardsticks that echo the same values: a raw Port, a Port with JSON, and erlport if its
  path is given. In each part they take turns, so that all of them meet the same machine. Prints
  the medians with their ratios, and whether these meet their targets.

    --quick            a tenth of the calls, and 3 rounds: about a minute
    --only PART,PART   only these parts
    --erlport PATH     also measure erlport: a directory with its compiled ebin/ and its priv/
    --jason PATH       Jason's compiled ebin/, for the JSON of the Port's Elixir end
    --python PROGRAM   the Python of all workers: .venv/bin/python if that exists, else python3
    --cpu NUMBER       the CPU for the parts on one CPU; the last one by default
    --rounds NUMBER    how often the peers take turns: 5
    --scale NUMBER     multiplies the number of calls
    --workers N,N,N    the sizes of pools: 1,10,50
    --megabytes N,N    the large values: 10,100

  The parts:

  """

  @notes """

  us: microseconds. In brackets: Snakepit's figure as a multiple of the yardstick's, the median over
  all rounds of their ratio within one round. CPU time and context switches are the kernel's
  counts for all threads of both ends, whatever they did. A yardstick's process in the BEAM owns
  its Port, as one would write it by hand. With more than one worker every caller of a yardstick
  goes through them in turn.

  `mix snakepit.bench` measures streams, first chunks, readiness, idle memory, and grpcio.
  """

  @options [
    quick: :boolean,
    help: :boolean,
    only: :string,
    erlport: :string,
    jason: :string,
    python: :string,
    cpu: :integer,
    rounds: :integer,
    scale: :float,
    workers: :string,
    megabytes: :string
  ]

  # Their code, for the BEAMs of `Snakepit.Bench.Cost.Beam`.
  @code for file <- ~w(json counters peers beam table parts),
            module <- Code.require_file("cost/#{file}.exs", __DIR__),
            do: module

  alias Snakepit.Bench.Cost.{Beam, Json, Parts, Peers, Table}

  def main(args) do
    case OptionParser.parse(args, strict: @options) do
      {options, [], []} -> if options[:help], do: help(), else: measure(options)
      {_, [argument | _], _} -> stop("unknown argument #{argument}; see --help")
      {_, _, [{option, _} | _]} -> stop("unknown option or value: #{option}; see --help")
    end
  end

  defp help do
    IO.write(@help)
    for {part, about} <- Parts.parts(), do: IO.puts("  #{pad(part)} #{about}")
    IO.write(@notes)
  end

  defp measure(given) do
    unless File.dir?("/proc/self/task"),
      do: stop("bench/cost.exs reads the kernel's counts in /proc: it runs on Linux alone")

    unless System.find_executable("taskset"),
      do: stop("bench/cost.exs needs taskset, of util-linux, to bind processes to one CPU")

    options = options(given)
    parts = chosen(given[:only])
    Logger.configure(level: :warning)
    IO.puts(machine(options))

    rows =
      Beam.with_code(@code, fn ->
        Enum.flat_map(parts, fn part ->
          {time, rows} = :timer.tc(fn -> Parts.run(part, options) end)
          IO.puts("#{pad(part)} measured in #{div(time, 1_000_000)} s")
          rows
        end)
      end)

    Table.print(rows)
    IO.write(@notes)
  end

  defp options(given) do
    for path <- [given[:jason], given[:erlport] && Path.join(given[:erlport], "ebin")],
        path != nil,
        do: Code.prepend_path(path)

    if given[:erlport] && not Code.ensure_loaded?(:erlport),
      do: stop("--erlport #{given[:erlport]}: expected a directory with ebin/erlport.beam")

    if given[:jason] && not Code.ensure_loaded?(Jason),
      do: stop("--jason #{given[:jason]}: expected a directory with Elixir.Jason.beam")

    quick = given[:quick] || false
    {:ok, _} = Application.ensure_all_started(:snakepit)

    %{
      erlport: given[:erlport] != nil,
      python: given[:python],
      cpu: given[:cpu] || last_cpu(),
      rounds: given[:rounds] || if(quick, do: 3, else: 5),
      scale: given[:scale] || if(quick, do: 0.1, else: 1.0),
      workers: integers(given[:workers] || "1,10,50"),
      megabytes: List.to_tuple(integers(given[:megabytes] || "10,100"))
    }
  end

  defp integers(text), do: text |> String.split(",") |> Enum.map(&String.to_integer/1)

  # The highest of those on which this process may run.
  defp last_cpu do
    [_, cpus] = Regex.run(~r/^Cpus_allowed_list:\s+(.*)$/m, File.read!("/proc/self/status"))
    [cpu] = Regex.run(~r/\d+$/, cpus)
    String.to_integer(cpu)
  end

  defp chosen(nil), do: Keyword.keys(Parts.parts())

  defp chosen(only) do
    names = for {part, _} <- Parts.parts(), into: %{}, do: {to_string(part), part}

    for name <- String.split(only, ",") do
      names[name] ||
        stop("there is no part #{name}; there are #{Enum.join(Map.keys(names), ", ")}")
    end
  end

  defp machine(options) do
    {codec, _, _} = Json.codec()
    python = Peers.python(options)
    {version, 0} = System.cmd(python, ["--version"])
    {load, _} = Float.parse(File.read!("/proc/loadavg"))

    """
    Elixir #{System.version()}, OTP #{System.otp_release()}, #{String.trim(version)}; \
    #{System.schedulers_online()} CPUs, load #{load}, parts on one CPU on number #{options.cpu}
    JSON: #{codec} in Elixir, #{json_library(python)} in Python
    """
  end

  defp json_library(python) do
    program = "import cost_peers; print(cost_peers.library)"
    environment = [{"PYTHONPATH", Path.join(__DIR__, "cost")}, {"PYTHONDONTWRITEBYTECODE", "1"}]
    {name, 0} = System.cmd(python, ["-c", program], env: environment)
    String.trim(name)
  end

  defp pad(part), do: String.pad_trailing(to_string(part), 8)

  defp stop(text) do
    IO.puts(:stderr, text)
    System.halt(2)
  end
end

Snakepit.Bench.Cost.main(System.argv())
