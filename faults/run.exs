# mix snakepit.faults [--long] [--only NAME]... [--list] [--seed N] [--jobs N] [--markdown] [--verbose]
#
# --long       every trial, each for longer: half an hour
# --only NAME  only this trial; may be repeated
# --list       prints the trials' names, and what each does
# --seed N     repeats the random numbers of the run that printed it
# --jobs N     how many trials run at once: 2 short ones or 1 long one
# --markdown   also prints the table in the format of guides/reliability.md
# --verbose    prints the output of every trial, not only of bad ones
#
# Breaks things on purpose, and checks what Snakepit promises in guides/reliability.md. Each trial
# runs in a BEAM of its own, so that a trial that ends its BEAM counts as a bad verdict. Exits
# with status 1 if a verdict is bad.
defmodule Snakepit.Faults do
  @here __DIR__
  @shared [
    {Snakepit.Test.OS, "os.ex"},
    {Snakepit.Test.Certificates, "certificates.ex"},
    {Snakepit.Test.HAProxy, "haproxy.ex"},
    {Snakepit.Test.NameServer, "name_server.ex"}
  ]
  @support for name <- ~w(os trial load beam victim hosts server proxy),
               do: Path.join(@here, "support/#{name}.exs")
  @trials Path.wildcard(Path.join(@here, "trials/*.exs"))
  @options [
    long: :boolean,
    only: :keep,
    list: :boolean,
    seed: :integer,
    jobs: :integer,
    markdown: :boolean,
    verbose: :boolean
  ]
  # The time after which a trial counts as hanging; no trial of a sound product comes near it.
  @cap_minutes %{short: 5, long: 30}
  @log_bytes 6_000

  def main(args) do
    {options, rest, unknown} = OptionParser.parse(args, strict: @options)

    with [unknown | _] <- rest ++ unknown,
         do: stop("unknown argument #{inspect(unknown)}; see faults/run.exs")

    unless File.dir?("/proc/self/fd"),
      do: stop("the fault suite reads /proc: it runs on Linux alone")

    modules = compile()
    trials = modules |> trials() |> chosen(Keyword.get_values(options, :only), options)
    if options[:list], do: list(trials), else: run(trials, modules, options)
  end

  defp chosen(all, names, options) do
    known = for trial <- all, do: trial.name

    case {names, names -- known} do
      {[], []} ->
        Enum.filter(all, &(options[:long] || options[:list] || &1.short))

      {_, []} ->
        Enum.filter(all, &(&1.name in names))

      {_, [name | _]} ->
        stop("there is no trial #{inspect(name)}; there are #{Enum.join(known, ", ")}")
    end
  end

  # {file, module, code} of all that the trials' BEAMs need, so that none of them compiles it again. The modules shared
  # with the tests are already compiled if the suite runs there.
  defp compile do
    shared =
      for {module, file} <- @shared,
          not Code.ensure_loaded?(module),
          do: Path.expand("../test/support/#{file}", @here)

    table = :ets.new(:modules, [:public, :bag])
    keep = fn file, module, code -> :ets.insert(table, {file, module, code}) end

    case Kernel.ParallelCompiler.compile(shared ++ @support ++ @trials, each_module: keep) do
      {:ok, _modules, _warnings} -> :ets.tab2list(table)
      {:error, _errors, _warnings} -> stop("the suite does not compile")
    end
  end

  # Those of the modules that have some, each with its module.
  defp trials(modules) do
    for {_file, module, _code} <- Enum.sort(modules),
        function_exported?(module, :trials, 0),
        trial <- module.trials(),
        do: Map.put(trial, :module, module)
  end

  defp list(trials) do
    for trial <- trials do
      form = if trial.short, do: "short", else: "long "
      IO.puts("#{String.pad_trailing(trial.name, 20)} #{form}  #{trial.about}")
    end
  end

  defp run(trials, modules, options) do
    seed = options[:seed] || :rand.uniform(1_000_000)
    form = if options[:long], do: :long, else: :short
    folder = folder()
    code = Path.join(folder, "code")

    unless File.exists?(".venv/bin/python"),
      do: stop("there is no .venv/bin/python: mix snakepit.setup --dev makes it")

    File.mkdir_p!(code)
    for {_, module, binary} <- modules, do: File.write!(Path.join(code, "#{module}.beam"), binary)
    IO.puts("#{count(trials)}, #{form}, --seed #{seed}\n")

    one = fn {trial, index} ->
      trial(trial, code, form, seed, Path.join(folder, "#{index}"), options[:verbose])
    end

    # Figures are best measured with one trial at a time; the verdicts are the same.
    jobs = options[:jobs] || if form == :short, do: 2, else: 1

    rows =
      trials
      |> Enum.with_index()
      |> Task.async_stream(one, max_concurrency: jobs, timeout: :infinity)
      |> Enum.map(fn {:ok, row} -> tap(row, &show/1) end)

    File.rm_rf(folder)
    if options[:markdown], do: markdown(rows)
    counts = Enum.frequencies_by(rows, & &1.verdict)
    summary = Enum.map_join([:good, :bad, :skipped], ", ", &"#{Map.get(counts, &1, 0)} #{&1}")
    IO.puts("\n#{count(rows)}: #{summary}. --seed #{seed}")
    if counts[:bad], do: System.halt(1)
  end

  defp count([_trial]), do: "1 trial"
  defp count(trials), do: "#{length(trials)} trials"

  # Short, because the path of a socket in it has at most 107 bytes.
  defp folder do
    parent = if byte_size(System.tmp_dir!()) < 40, do: System.tmp_dir!(), else: "/tmp"
    folder = Path.join(parent, "faults-#{System.pid()}")
    File.mkdir_p!(folder)
    folder
  end

  defp trial(trial, code, form, seed, folder, verbose) do
    File.mkdir_p!(folder)
    result = Path.join(folder, "result")
    what = %{module: trial.module, name: trial.name, form: form, seed: seed, result: result}
    paths = Enum.flat_map([code | :code.get_path()], &["-pa", to_string(&1)])
    argument = what |> :erlang.term_to_binary() |> Base.encode64()
    started = System.monotonic_time(:millisecond)

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args: paths ++ ["-e", "Snakepit.Faults.Trial.main(System.argv())", argument],
        env: [{~c"TMPDIR", to_charlist(folder)}, {~c"SNAKEPIT_FAULTS", ~c"1"}]
      ])

    cap = Map.get(trial, :minutes, @cap_minutes[form]) * 60_000
    {status, log} = await(port, started + cap, "", verbose)
    seconds = (System.monotonic_time(:millisecond) - started) / 1000
    row = %{name: trial.name, about: trial.about, seconds: seconds, log: log}

    case File.read(result) do
      {:ok, data} -> Map.merge(row, :erlang.binary_to_term(data))
      {:error, _} -> Map.merge(row, %{verdict: :bad, figures: [], failures: [ended(status)]})
    end
  end

  defp ended(:hangs), do: "the trial hangs: its BEAM was killed"
  defp ended(139), do: "the BEAM ended by SIGSEGV"
  defp ended(137), do: "the BEAM ended by SIGKILL"
  defp ended(134), do: "the BEAM aborted"
  defp ended(status), do: "the BEAM ended with status #{status} before the trial did"

  defp await(port, deadline, log, verbose) do
    receive do
      {^port, {:data, data}} ->
        if verbose, do: IO.write(data)
        log = log <> data
        excess = byte_size(log) - @log_bytes
        log = if excess > 0, do: binary_part(log, excess, @log_bytes), else: log
        await(port, deadline, log, verbose)

      {^port, {:exit_status, status}} ->
        {status, log}
    after
      max(deadline - System.monotonic_time(:millisecond), 0) ->
        {:os_pid, pid} = Port.info(port, :os_pid)
        # After the shell's `exec` this is the BEAM's own pid.
        System.cmd("kill", ["-KILL", "#{pid}"])
        {:hangs, log}
    end
  end

  defp show(row) do
    name = String.pad_trailing(row.name, 20)
    verdict = String.pad_trailing("#{row.verdict}", 8)
    seconds = String.pad_leading(:erlang.float_to_binary(row.seconds, decimals: 1), 6)
    IO.puts("#{name}#{verdict}#{seconds} s  #{figures(row)}")
    for text <- row.failures, do: IO.puts("    #{text}")

    if row.verdict == :bad and row.log != "" do
      lines = row.log |> String.split("\n", trim: true) |> Enum.take(-20)
      IO.puts("    the end of its output:")
      for line <- lines, do: IO.puts("    | " <> String.slice(printable(line), 0, 300))
    end

    true
  end

  defp printable(line),
    do: for(<<c <- line>>, into: "", do: if(c in 32..126, do: <<c>>, else: "."))

  # Shows each figure once, with the number of equal ones.
  defp figures(row) do
    shown = Enum.map(row.figures, fn {name, value} -> "#{name} #{value}" end)
    counts = Enum.frequencies(shown)

    shown
    |> Enum.uniq()
    |> Enum.map_join("; ", fn one -> one <> times(Map.fetch!(counts, one)) end)
  end

  defp times(1), do: ""
  defp times(count), do: " (#{count} times)"

  defp markdown(rows) do
    IO.puts("\n| trial | what is done | figures | verdict |\n|---|---|---|---|")

    for row <- rows do
      IO.puts("| `#{row.name}` | #{row.about} | #{figures(row)} | #{row.verdict} |")
    end
  end

  defp stop(text) do
    IO.puts(:stderr, text)
    System.halt(2)
  end
end

Snakepit.Faults.main(System.argv())
