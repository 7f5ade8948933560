defmodule Mix.Tasks.Snakepit.Gen.AdapterTest do
  # A project of `mix new --sup`, what is generated into it, and its own tests.
  use ExUnit.Case, async: true

  alias Mix.Snakepit.Gen.{Functions, Inject, Types}
  alias Snakepit.Test.Project

  @moduletag :tmp_dir

  @generate ["snakepit.gen.adapter", "My.Python"]

  defp new!(dir) do
    {_, 0} = System.cmd("mix", ["new", "my", "--sup"], cd: dir, env: [{"MIX_ENV", nil}])
    Project.add_dependency!(Path.join(dir, "my"))
  end

  defp mix!(project, args, options \\ []) do
    {output, status} = Project.mix(project, args, options)
    assert status == 0, output
    output
  end

  test "makes a project that compiles without warnings and passes its tests", %{tmp_dir: dir} do
    project = new!(dir)
    read = &File.read!(Path.join(project, &1))
    output = mix!(project, @generate)
    assert output =~ "* creating priv/python/my_python.py"
    assert output =~ ".venv/bin/python -m pytest test/python"
    assert output =~ "* updating lib/my/application.ex, with the child My.Python"
    assert read.("lib/my/application.ex") =~ "children = [\n      My.Python\n"
    assert read.("config/dev.exs") == "import Config\n\nconfig :my, My.Python, reload: true\n"
    wrapper = read.("lib/my/python.ex")

    assert wrapper =~
             "@spec greet([name: String.t(), times: integer], keyword) ::\n" <>
               "          {:ok, map} | {:error, Snakepit.Error.t()}"

    assert wrapper =~ "Greets somebody, once or more."
    assert wrapper =~ "@spec count([to: integer], keyword) :: Enumerable.t()"

    check = ~w(do format --check-formatted + compile --force --warnings-as-errors +)
    call = ~w(snakepit.call greet name=you)
    assert mix!(project, check ++ call) =~ ~s({"result": "Hello you"})
    assert mix!(project, ["test"], env: [{"MIX_ENV", "test"}]) =~ Project.passed()

    python = Path.expand(".venv/bin/python")
    args = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test/python"]
    env = [{"PYTHONPATH", Path.expand("python")}]
    {output, status} = System.cmd(python, args, cd: project, env: env, stderr_to_stdout: true)
    assert status == 0, output

    # Nothing to do.
    assert mix!(project, @generate) =~ "lib/my/python.ex is up to date"

    # The user changes both files.
    File.write!(
      Path.join(project, "lib/my/python.ex"),
      String.replace(wrapper, "@doc false", "@doc false\n  # Mine.", global: false)
    )

    code = read.("priv/python/my_python.py")

    File.write!(
      Path.join(project, "priv/python/my_python.py"),
      String.replace(code, "times: int = 1", "loud: bool = False")
    )

    {output, status} = Project.mix(project, @generate ++ ["--check"])
    assert status == 1
    assert output =~ "-  @spec greet([name: String.t(), times: integer], keyword)"
    assert output =~ "+  @spec greet([name: String.t(), loud: boolean], keyword)"
    assert output =~ "run mix snakepit.gen.adapter My.Python"
    refute read.("lib/my/python.ex") =~ "loud"

    assert mix!(project, @generate) =~ "* updating lib/my/python.ex"
    assert read.("lib/my/python.ex") =~ "loud: boolean"
    assert read.("lib/my/python.ex") =~ "# Mine."
    assert mix!(project, @generate ++ ["--check"]) =~ "is up to date"
  end

  test "asks before it overwrites a file, and says what to add where it cannot", %{tmp_dir: dir} do
    project = Project.write!(Path.join(dir, "app"), :app, %{"lib/app/python.ex" => "# mine\n"})
    # There is nobody to answer.
    env = Project.env(project)
    command = ["-c", "mix snakepit.gen.adapter App.Python < /dev/null"]
    {output, 0} = System.cmd("sh", command, cd: project, env: env, stderr_to_stdout: true)
    assert output =~ "lib/app/python.ex already exists, overwrite?"
    assert File.read!(Path.join(project, "lib/app/python.ex")) == "# mine\n"
    assert output =~ "The application :app has no supervision tree"
    mix!(project, ["snakepit.gen.adapter", "App.Python", "--force"])
    assert File.read!(Path.join(project, "lib/app/python.ex")) =~ "defmodule App.Python do"

    # uv makes environments without pip.
    uv = Path.join(dir, "bin/uv")
    File.mkdir_p!(Path.dirname(uv))
    File.write!(uv, "#!/bin/sh\n")
    File.chmod!(uv, 0o755)
    File.rm!(Path.join(project, "lib/app/python.ex"))
    env = [{"PATH", Path.dirname(uv) <> ":" <> System.get_env("PATH")}]
    output = mix!(project, ["snakepit.gen.adapter", "App.Python", "--force"], env: env)
    assert output =~ ~r/^ +uv pip install pytest$/m
    refute output =~ "-m pip"

    {output, 1} = Project.mix(project, ["snakepit.gen.adapter", "app"])
    assert output =~ "app is not the name of a module"

    # The applications of an umbrella have one configuration.
    shared = Path.join(dir, "config")
    File.rename!(Path.join(project, "config"), shared)
    File.write!(Path.join(shared, "dev.exs"), "import Config\n")
    mix_exs = project |> Path.join("mix.exs") |> File.read!()

    mix_exs =
      String.replace(mix_exs, "version:", ~s(config_path: "../config/config.exs", version:))

    File.write!(Path.join(project, "mix.exs"), mix_exs)
    File.rm!(Path.join(project, "lib/app/python.ex"))
    output = mix!(project, ["snakepit.gen.adapter", "App.Python", "--force"])
    assert output =~ "* updating ../config/dev.exs, with reload: true"
    assert File.read!(Path.join(shared, "dev.exs")) =~ "config :app, App.Python, reload: true\n"
    refute File.exists?(Path.join(project, "config"))
  end

  test "converts annotations to types" do
    for {python, elixir} <- [
          {nil, "term"},
          {"str", "String.t()"},
          {"Optional[int]", "integer | nil"},
          {"list[dict[str, int]] | None", "[map] | nil"},
          {"typing.Union[str, 'bytes']", "String.t() | binary"},
          {"Literal['a', 'b|c', 3, True]", "String.t() | 3 | true"},
          {"tuple[int, ...]", "[integer]"},
          {"collections.abc.Sequence[tuple[int, str]]", "[[integer | String.t()]]"},
          {"Annotated[float, Gt(0)]", "number"},
          {"numpy.ndarray", "term"},
          {"Callable[[int], str]", "term"},
          {"datetime.date", "Date.t() | String.t()"}
        ],
        do: assert({python, Types.convert(python)} == {python, elixir})
  end

  test "defines functions for whatever commands are named" do
    command = fn name, parameters ->
      %{
        name: name,
        signature: "#{name}(...)",
        doc: ~s(A """ in \#{it}\\n.),
        streams: false,
        async: false,
        parameters: parameters
      }
    end

    parameter = fn name, required ->
      %{name: name, type: "int", required: required, default: nil}
    end

    commands = [
      command.("end", []),
      command.("do-it", []),
      command.("max", [parameter.("A", true), parameter.("in", false)]),
      command.("rest", [parameter.("**rest", false)]),
      command.("unknown", nil)
    ]

    part = Functions.generate(commands, "lib/x.ex")
    [{module, _code}] = Code.compile_string("defmodule GeneratedByTheTest do\n#{part}\nend")
    functions = module.__info__(:functions)
    assert {:max, 2} in functions and {:max, 1} in functions and {:rest, 0} in functions
    refute Keyword.has_key?(functions, :end)
    assert part =~ ~s(# No function can have the name of the command "do-it")
    assert {"before\n", ^part, "behind\n"} = Functions.split("before\n#{part}\nbehind\n")
  end

  test "adds a child only to a list that it recognizes" do
    file = fn list ->
      "defmodule A do\n  def start do\n    children = #{list}\n    children\n  end\nend\n"
    end

    assert Inject.child(file.("[]"), A.P) == {:ok, file.("[\n      A.P\n    ]")}

    assert Inject.child(file.("[\n      # Nothing.\n    ]"), A.P) ==
             {:ok, file.("[\n      A.P\n      # Nothing.\n    ]")}

    assert Inject.child(file.("[\n      B\n    ]"), A.P) ==
             {:ok, file.("[\n      A.P,\n      B\n    ]")}

    assert Inject.child(file.("[\n      {A.P, []}\n    ]"), A.P) == :present

    assert Inject.child(file.("[\n      A.P.Q\n    ]"), A.P) ==
             {:ok, file.("[\n      A.P,\n      A.P.Q\n    ]")}

    assert Inject.child(file.("[B] ++ more()"), A.P) == :unknown
  end
end
