defmodule Mix.Tasks.Snakepit.CallTest do
  # mix snakepit.call and mix snakepit.commands, as users run them.
  use ExUnit.Case, async: true

  alias Mix.Snakepit.{Arguments, JSON}
  alias Snakepit.Test.Project

  @moduletag :tmp_dir

  @commands """
  from snakepit_bridge import Adapter, command

  class Commands(Adapter):
      @command
      def greet(self, name: str, times: int = 1) -> str:
          \"\"\"Greets somebody.

          More than once, if asked to.
          \"\"\"
          print("greeting")
          return " ".join(["Hello " + name] * times)

      @command
      def echo(self, **values):
          return values

      @command
      def fail(self):
          raise ValueError("on purpose")

      @command
      def count(self, to: int):
          for number in range(1, to + 1):
              yield {"number": number}
  """

  defp project!(dir, pools \\ []) do
    children =
      for name <- pools do
        "{Snakepit.Pool, name: #{inspect(name)}, size: 1, startup_timeout: 120_000, timeout: 120_000,\n" <>
          ~s(adapter_args: [class: "commands:Commands", paths: ["python"]]})
      end

    application = """
    defmodule App.Application do
      use Application
      def start(_type, _args), do: Supervisor.start_link([#{Enum.join(children, ", ")}], strategy: :one_for_one)
    end
    """

    files = %{"lib/app/application.ex" => application, "python/commands.py" => @commands}
    project = Project.write!(Path.join(dir, "app"), :app, files, mod: "App.Application")
    # Its output would be that of the first task.
    {_, 0} = Project.mix(project, ["compile"])
    project
  end

  # Only what the task writes to standard output.
  defp call(project, args),
    do: Project.mix(project, ["snakepit.call" | args], stderr_to_stdout: false)

  test "calls the project's pool and prints JSON, and nothing else, on standard output",
       %{tmp_dir: dir} do
    project = project!(dir, [App.Python])
    assert call(project, ["greet", "name=you"]) == {~s({"result": "Hello you"}\n), 0}

    assert call(project, ["greet", "name=Zoë=", "times:=2"]) ==
             {~s({"result": "Hello Zoë= Hello Zoë="}\n), 0}

    assert call(project, ["count", "to:=2", "--stream", "--pool", "App.Python"]) ==
             {~s({"is_final": false, "number": 1}\n{"is_final": false, "number": 2}\n), 0}

    {output, status} = Project.mix(project, ["snakepit.call", "fail"])
    assert status == 1
    assert output =~ "ValueError: on purpose"
    {output, 1} = Project.mix(project, ["snakepit.call", "greet", "nam=you"])
    assert output =~ "greet(name: str, times: int = 1)"
  end

  test "calls a class without the project's pools", %{tmp_dir: dir} do
    project = project!(dir)
    class = ["--class", "commands:Commands", "--path", "python"]
    assert call(project, ["greet", "name=you" | class]) == {~s({"result": "Hello you"}\n), 0}

    {output, 0} = Project.mix(project, ["snakepit.commands" | class], stderr_to_stdout: false)

    assert output == """
           count(to: int) -> stream
           echo(**values)
           fail()
           greet(name: str, times: int = 1)
               Greets somebody.
               More than once, if asked to.
           """

    {output, 1} = Project.mix(project, ["snakepit.call", "greet", "name=you"])
    assert output =~ "no pool is running"
    {output, 1} = Project.mix(project, ["snakepit.call", "x", "--class", "nowhere:Nothing"])
    assert output =~ "no module 'nowhere'"
  end

  test "asks which of several pools is meant", %{tmp_dir: dir} do
    project = project!(dir, [App.One, App.Two])
    {output, 1} = Project.mix(project, ["snakepit.call", "greet", "name=you"])
    assert output =~ "there are several pools: pass --pool with one of App.One, App.Two"

    assert {~s({"result": "Hello you"}\n), 0} =
             call(project, ["greet", "name=you", "--pool", "App.Two"])

    {output, 1} = Project.mix(project, ["snakepit.commands", "--pool", "App.Three"])
    assert output =~ "there is no pool App.Three; the pools are App.One, App.Two"
  end

  test "reads text and JSON arguments" do
    assert Arguments.parse(["a=1", "b:=1", ~s(c:={"d": [null, true]}), "e=", "f=g:=h", "i:=\"=\""]) ==
             {:ok,
              %{
                "a" => "1",
                "b" => 1,
                "c" => %{"d" => [nil, true]},
                "e" => "",
                "f" => "g:=h",
                "i" => "="
              }}

    assert {:error, "expected name=text or name:=json, got: you"} = Arguments.parse(["you"])
    assert {:error, message} = Arguments.parse(["n:={"])
    assert message =~ "the value of n:={ cannot be read"
    assert {:error, "a is given more than once"} = Arguments.parse(["a=1", "a:=2"])
  end

  test "shows every value as JSON" do
    shown = fn value -> value |> JSON.encode() |> IO.iodata_to_binary() end

    assert shown.(%{"b" => [1, 2.5, nil, true], "a" => "x\n\"\\\u0001é"}) ==
             ~S({"a": "x\n\"\\\u0001é", "b": [1, 2.5, null, true]})

    assert shown.([:nan, :neg_infinity]) == ~s(["nan", "neg_infinity"])
    assert shown.(<<255>>) == ~s({"base64": "/w=="})
    assert shown.(Snakepit.Tensor.from_list([[1, 2]], :int32)) == "[[1, 2]]"
  end
end
