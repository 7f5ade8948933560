defmodule Mix.Tasks.Snakepit.Gen.Adapter do
  @shortdoc "Generates Python commands and an Elixir module with a function for each"

  @moduledoc """
  Generates a file of Python commands, and an Elixir module with a function for each command.

      $ mix snakepit.gen.adapter MyApp.Python

  It creates

    * `priv/python/my_app_python.py` - a class with one command and one that streams
    * `lib/my_app/python.ex` - the module `MyApp.Python`: the pool, a child of your supervision tree,
      with a function for each command
    * `test/my_app/python_test.exs`, and `test/python/test_my_app_python.py` for pytest

  adds `MyApp.Python` to the children in `lib/my_app/application.ex`, and `reload: true` to
  `config/dev.exs`, so that the pool takes up changes of the Python file while you develop. Where
  one of these files does not have its usual form, the task prints what to add.

      iex> MyApp.Python.greet(name: "you")
      {:ok, %{"result" => "Hello you"}}
      iex> MyApp.Python.count(to: 3) |> Enum.map(& &1["number"])
      [1, 2, 3]

  ## When the commands change

  The functions are generated from what the commands say of themselves: names, parameters, types,
  defaults and docstrings. Run the task again after a change: it starts a worker, and writes only
  the functions anew. Whatever else you have written into the module stays.

      $ mix snakepit.gen.adapter MyApp.Python --check

  writes nothing. If the functions do not match the commands, it prints the difference and exits
  with status 1, for CI.

  ## Options

    * `--check` - only compares, see above
    * `--force` - overwrites files that exist without asking
  """
  use Mix.Task

  alias Mix.Snakepit.Gen.{Functions, Inject}
  alias Mix.Snakepit.Pools

  @switches [check: :boolean, force: :boolean]

  @impl true
  def run(args) do
    Mix.Snakepit.run(__MODULE__, args, @switches, fn options, rest ->
      if Mix.Project.umbrella?(),
        do:
          Mix.raise(
            "run mix snakepit.gen.adapter in the directory of an application of the umbrella"
          )

      adapter = adapter(rest)
      Mix.Task.run("app.config")
      generate(adapter, options)
    end)
  end

  defp adapter([name]) do
    unless name =~ ~r/\A[A-Z]\w*(\.[A-Z]\w*)*\z/, do: usage("#{name} is not the name of a module")
    app = Mix.Project.config()[:app]
    path = Macro.underscore(name)
    python = String.replace(path, "/", "_")

    %{
      module: Module.concat([name]),
      app: app,
      path: "lib/#{path}.ex",
      test: "test/#{path}_test.exs",
      python: python,
      class: "#{name |> String.split(".") |> List.last()}Commands"
    }
  end

  defp adapter(_args), do: usage("expected the name of a module, such as MyApp.Python")

  defp usage(message), do: Mix.Snakepit.usage!(__MODULE__, message)

  defp generate(%{path: path} = adapter, options) do
    case {File.read(path), options[:check]} do
      {{:ok, text}, check} ->
        case {Functions.split(text), check} do
          {:error, true} -> Mix.raise("#{path} has no functions of mix snakepit.gen.adapter")
          {:error, _} -> create(adapter, options)
          {{_, part, _}, true} -> check(adapter, part)
          {{_, part, _}, _} -> update(adapter, text, part)
        end

      {{:error, _}, true} ->
        Mix.raise(
          "#{path} does not exist: mix snakepit.gen.adapter #{inspect(adapter.module)} creates it"
        )

      {{:error, _}, _} ->
        create(adapter, options)
    end
  end

  defp check(adapter, part) do
    case functions(adapter) do
      ^part ->
        Mix.shell().info("#{adapter.path} is up to date")

      wanted ->
        Mix.shell().info(Functions.diff(part, wanted))

        Mix.shell().error(
          "\n#{adapter.path} does not match the commands: run mix snakepit.gen.adapter #{inspect(adapter.module)}"
        )

        Mix.Snakepit.fail()
    end
  end

  defp update(adapter, text, part) do
    case functions(adapter) do
      ^part ->
        Mix.shell().info("#{adapter.path} is up to date")

      wanted ->
        File.write!(adapter.path, Functions.replace(text, wanted))
        Mix.Snakepit.step("updating", adapter.path)
    end
  end

  defp create(adapter, options) do
    file = &Mix.Generator.create_file(&1, &2, force: options[:force] || false)
    file.("priv/python/#{adapter.python}.py", python(adapter))
    file.(adapter.path, wrapper(adapter, functions(adapter)))
    file.(adapter.test, test(adapter))

    unless File.exists?("test/python/conftest.py"),
      do: file.("test/python/conftest.py", conftest())

    file.("test/python/test_#{adapter.python}.py", pytest(adapter))
    hints = supervise(adapter) ++ configure(adapter)
    Enum.each(hints, &Mix.shell().info("\n" <> &1))

    Mix.shell().info("""

    Try it:

        mix test
        mix snakepit.call greet name=you

    and the test in Python:

        mix snakepit.setup
        #{install("pytest")}
        .venv/bin/python -m pytest test/python
    """)
  end

  # An environment that uv has made has no pip.
  defp install(package) do
    if System.find_executable("uv"),
      do: "uv pip install #{package}",
      else: ".venv/bin/python -m pip install #{package}"
  end

  # Asks a worker for its commands.
  defp functions(adapter) do
    Pools.with_one(pool_options(adapter), fn
      {:ok, pool}, _ms ->
        case Pools.commands(pool) do
          {:ok, commands} -> Functions.generate(commands, adapter.path)
          {:error, error} -> failed(error)
        end

      {:error, error}, _ms ->
        failed(error)
    end)
  end

  defp failed(error) do
    Mix.raise(
      "the commands are not known, because no worker has started (mix snakepit.doctor checks why): " <>
        Exception.message(error)
    )
  end

  # Those of the module, if it exists: it may set the Python, or the arguments of the class.
  defp pool_options(%{module: module} = adapter) do
    if Code.ensure_loaded?(module) and function_exported?(module, :child_spec, 1) do
      %{start: {_module, :start_link, [options]}} = module.child_spec([])
      options
    else
      class = "#{adapter.python}:#{adapter.class}"
      [adapter_args: [class: class, paths: [Path.expand("priv/python")]]]
    end
  end

  defp supervise(%{module: module} = adapter) do
    line = "    children = [\n      #{inspect(module)}\n    ]"

    with {supervisor, _args} <- Keyword.get(Mix.Project.get!().application(), :mod),
         path = "lib/#{Macro.underscore(supervisor)}.ex",
         {:ok, text} <- File.read(path) do
      case Inject.child(text, module) do
        {:ok, new} ->
          File.write!(path, new)
          Mix.Snakepit.step("updating", "#{path}, with the child #{inspect(module)}")
          []

        :present ->
          []

        :unknown ->
          ["Add the pool to the children of a supervisor, in #{path} for example:\n\n#{line}"]
      end
    else
      _ ->
        [
          "The application #{inspect(adapter.app)} has no supervision tree (`mix new --sup` makes one): add the pool " <>
            "to the children of a supervisor:\n\n#{line}"
        ]
    end
  end

  defp configure(%{module: module, app: app}) do
    setting = "config #{inspect(app)}, #{inspect(module)}, reload: true\n"

    # That of an umbrella is shared by its applications.
    path = Mix.Project.config()[:config_path]
    dev_path = Path.join(Path.dirname(path), "dev.exs")

    case {File.read(path), File.read(dev_path)} do
      {{:error, :enoent}, {:error, :enoent}} ->
        Mix.Generator.create_file(path, config())
        Mix.Generator.create_file(dev_path, "import Config\n\n" <> setting)
        []

      {{:ok, config}, dev} ->
        if config =~ "import_config",
          do: configure_dev(dev_path, dev, setting, module),
          else: [hint(setting)]

      _ ->
        [hint(setting)]
    end
  end

  defp configure_dev(path, {:error, :enoent}, setting, _module) do
    Mix.Generator.create_file(path, "import Config\n\n" <> setting)
    []
  end

  defp configure_dev(path, {:ok, text}, setting, module) do
    unless Inject.mentions?(text, module) do
      File.write!(path, String.trim_trailing(text) <> "\n\n" <> setting)
      Mix.Snakepit.step("updating", "#{path}, with reload: true")
    end

    []
  end

  defp configure_dev(_path, _error, setting, _module), do: [hint(setting)]

  defp hint(setting) do
    "For the pool to take up changes of the Python file, add to the configuration of development:\n\n    " <>
      setting
  end

  defp config do
    """
    import Config

    # Only development has settings of its own.
    if config_env() == :dev, do: import_config("dev.exs")
    """
  end

  defp wrapper(adapter, functions) do
    """
    defmodule #{inspect(adapter.module)} do
      @moduledoc \"""
      Runs the commands of `priv/python/#{adapter.python}.py`, each as a function.

      This module is a pool of Python workers, a child of the application's supervisor. The options
      of `Snakepit.Pool` may be set in the configuration:

          config #{inspect(adapter.app)}, #{inspect(adapter.module)}, size: 4

      After a change of the commands run `mix snakepit.gen.adapter #{inspect(adapter.module)}`.
      \"""

      @options [
        name: __MODULE__,
        adapter_args: [
          class: "#{adapter.python}:#{adapter.class}",
          paths: [{#{inspect(adapter.app)}, "priv/python"}]
        ]
      ]

      @doc false
      def child_spec(options) do
        configured = Application.get_env(#{inspect(adapter.app)}, __MODULE__, [])
        @options |> Keyword.merge(configured) |> Keyword.merge(options) |> Snakepit.Pool.child_spec()
      end

    #{functions}
    end
    """
  end

  defp test(adapter) do
    module = inspect(adapter.module)

    """
    defmodule #{module}Test do
      use ExUnit.Case, async: true

      test "greets" do
        assert {:ok, %{"result" => "Hello you"}} = #{module}.greet(name: "you")
        assert {:error, %Snakepit.Error{reason: :invalid_args}} = #{module}.greet(name: 1)
      end

      test "counts, in a stream" do
        assert [1, 2, 3] = [to: 3] |> #{module}.count() |> Enum.map(& &1["number"])
      end
    end
    """
  end

  defp python(adapter) do
    ~s'''
    """The commands of #{inspect(adapter.module)}."""

    from collections.abc import Generator

    from snakepit_bridge import Adapter, command


    class #{adapter.class}(Adapter):
        """Every worker creates one instance. Load models and open connections in __init__."""

        @command
        def greet(self, name: str, times: int = 1) -> str:
            """Greets somebody, once or more."""
            return " ".join([f"Hello {name}"] * times)

        @command
        def count(self, to: int) -> Generator[dict[str, int], None, None]:
            """Counts from 1, one chunk for each number."""
            for number in range(1, to + 1):
                yield {"number": number}
    '''
  end

  defp pytest(adapter) do
    ~s'''
    """Tests the commands without a pool: python -m pytest test/python"""

    from #{adapter.python} import #{adapter.class}
    from snakepit_bridge import testing


    def test_greets() -> None:
        result = testing.call(#{adapter.class}, "greet", {"name": "you"})
        assert result == {"result": "Hello you"}


    def test_counts() -> None:
        chunks = testing.stream(#{adapter.class}, "count", {"to": 3})
        assert [chunk["number"] for chunk in chunks] == [1, 2, 3]
    '''
  end

  defp conftest do
    ~s'''
    """Lets the tests import the commands."""

    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2] / "priv" / "python"))
    '''
  end
end
