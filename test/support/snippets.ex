defmodule Snakepit.Test.Snippets do
  @moduledoc false
  # Runs the code of documents as it stands.
  #
  # What a fenced block is depends on its language:
  #
  #   * `python`: a part of `python/my_commands.py`. A block whose first line is a comment with a
  #     path becomes that file instead; pytest runs a file whose name begins with `test_`.
  #   * `elixir`: the blocks are evaluated in order and share their variables. One whose value is
  #     `{Snakepit.Pool, options}`, or a list of children with some of these, starts a pool; other
  #     children are left out. The pools start first, whatever stands before them.
  #   * `exs`: a part of an Elixir file. A part of `config/*.exs` must configure valid pools.
  #   * any other is not run.
  #
  # If no block starts `MyApp.Python`, it is a pool of `MyCommands`, or of the built-in commands if
  # there is no Python block.

  import ExUnit.Assertions
  import ExUnit.Callbacks
  import ExUnit.CaptureIO
  import Snakepit.Test.Files, only: [put!: 3]
  import ExUnit.CaptureLog
  import Snakepit.Test.Pools, only: [await_ready: 1, patience: 0]

  alias Snakepit.Config.Environment

  @root Path.expand("../..", __DIR__)
  @children ~r/\{Snakepit\.Pool,\s/

  @doc "Returns the sections of a document that have code to run, each as `{title, blocks}`."
  def sections(path) do
    [head | sections] = path |> File.read!() |> String.split("\n## ")

    for section <- ["#{head}" | sections], blocks = blocks(section), blocks != [] do
      {section |> String.split("\n", parts: 2) |> hd(), blocks}
    end
  end

  @doc "Returns the code of a whole document, for one whose sections build on each other."
  def document(path), do: path |> File.read!() |> blocks()

  defp blocks(text) do
    for [lang, code] <-
          Regex.scan(~r/^ *```(python|elixir|exs)\n(.*?)^ *```$/ms, text, capture: :all_but_first),
        do: {lang, code}
  end

  @doc "Runs blocks in a directory of their own, with further options for every pool."
  def run(blocks, file, dir, options \\ []) do
    files = python_files(blocks, dir)
    File.ln_s!(Path.join(@root, ".venv"), Path.join(dir, ".venv"))
    for {"exs", code} <- blocks, do: check(code, file)
    {pools, code} = Enum.split_with(for({"elixir", code} <- blocks, do: code), &(&1 =~ @children))

    unless pools == [] and code == [] do
      # What commands log and snippets print is not tested here.
      capture_log(fn ->
        names = start_pools(pools, Map.has_key?(files, "python/my_commands.py"), dir, options)
        capture_io(fn -> evaluate(code, file) end)
        for name <- names, do: :ok = stop_supervised({Snakepit.Pool, name})
      end)
    end

    for {name, _path} <- files,
        String.starts_with?(Path.basename(name), "test_"),
        do: pytest!(name, dir)
  end

  @doc "Evaluates snippets in order; they share their variables."
  def evaluate(snippets, file) do
    Enum.reduce(snippets, [], fn code, binding ->
      {_value, binding} = Code.eval_string(code, binding, file: file)
      binding
    end)
  end

  @doc "Checks a part of an Elixir file that cannot be run by itself."
  def check(code, file) do
    Code.string_to_quoted!(code, file: file)

    if code =~ ~r/^config :/m do
      code = if code =~ "import Config", do: code, else: "import Config\n" <> code
      config = Config.Reader.eval!(file, code, env: :prod)

      environment =
        config |> Keyword.get(:snakepit, []) |> Keyword.drop([:runtime_threads, :precompiled])

      {:ok, options} = Environment.pool(environment)
      check_pools({Snakepit.Pool, options || []})

      # The pools of the user's own application.
      for {app, pools} <- config,
          app != :snakepit,
          {_name, options} <- pools,
          do: check_pools({Snakepit.Pool, options})
    end

    # Children that need nothing else.
    if code =~ ~r/\A(children = \[\s*)?\{Snakepit\.Pool,/ do
      {children, _binding} = Code.eval_string(code, [], file: file)
      check_pools(children)
    end
  end

  @doc "Checks the options of the pools among children."
  def check_pools(children) do
    for {Snakepit.Pool, options} <- List.wrap(children),
        do: assert({:ok, _} = Snakepit.Config.pool(options))
  end

  defp python_files(blocks, dir) do
    for({"python", code} <- blocks, do: file(code))
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Map.new(fn {name, parts} ->
      {name, put!(dir, name, Enum.join(parts, "\n\n"))}
    end)
  end

  # The file of a block, and its content.
  defp file(code) do
    case Regex.run(~r/\A# (\S+\.py)\n/, code) do
      [_line, path] -> {path, code}
      nil -> {"python/my_commands.py", code}
    end
  end

  # Blocks that name the same pool add options to it.
  defp start_pools(snippets, commands?, dir, options) do
    own = if commands?, do: [class: "my_commands:MyCommands", paths: ["python"]], else: []

    given =
      for code <- snippets,
          {value, _binding} = Code.eval_string(code),
          {Snakepit.Pool, options} <- List.wrap(value),
          reduce: %{} do
        pools -> Map.update(pools, options[:name], options, &Keyword.merge(&1, options))
      end

    for {name, given} <- Map.put_new(given, MyApp.Python, []) do
      # As in `Snakepit.Test.Pools`: with patience, and with the Python under test.
      python = System.get_env("SNAKEPIT_TEST_PYTHON") || Path.join(@root, ".venv/bin/python")
      patient = [startup_timeout: 2 * patience(), timeout: patience(), kill_grace: patience()]
      defaults = [name: name, size: 1, adapter_args: own, root: dir] ++ patient
      given = Keyword.merge(defaults, given)
      start_supervised!({Snakepit.Pool, Keyword.merge([python: python] ++ given, options)})
      :ok = await_ready(name)
      name
    end
  end

  defp pytest!(name, dir) do
    env = [{"PYTHONPATH", "#{Path.join(@root, "python")}:#{Path.join(dir, "python")}"}]
    args = ["-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    python = Path.join(@root, ".venv/bin/python")
    {output, status} = System.cmd(python, args, cd: dir, env: env, stderr_to_stdout: true)
    assert status == 0, output
  end
end
