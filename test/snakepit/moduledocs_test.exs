defmodule Snakepit.ModuledocsTest do
  # Runs the code in the documentation of the public modules and functions as it stands. The
  # commands that it calls are those of test/support/python/documented.py. Doctests run where their
  # module is tested, and the body of README.md in documents_test.exs.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import Snakepit.Test.Pools

  alias Snakepit.Test.Snippets

  @moduletag :tmp_dir

  @blocks ~r/(?:\A|\n\n)((?: {4}[^\n]*(?:\n|\z)|\n(?= {4}|\n))+)/

  # Needs a server of the reader's own at a path of their choice, or a package that is not here.
  @only_parsed ~r/GRPC\.Client\.connect|Telemetry\.Metrics/

  setup %{tmp_dir: dir} do
    File.write!(Path.join(dir, "photo.png"), <<137, "PNG">>)
    args = [class: "documented:Documented", paths: [Path.expand("test/support/python")]]
    start_pool!(name: MyApp.Python, size: 4, adapter_args: args)
    start_pool!(name: MyApp.Explore, adapter_args: [class: "snakepit_bridge:Interpreter"])
    :ok
  end

  test "the code in the documentation runs", %{tmp_dir: dir} do
    documented = documented()
    assert length(documented) > 15

    File.cd!(dir, fn ->
      # Protocols are consolidated here, and the compiler says that implementations come too late.
      capture_io(:stderr, fn ->
        for {where, code} <- documented, do: capture_io(fn -> run(code, where) end)
      end)
    end)
  after
    :telemetry.detach("slow")
  end

  defp documented do
    {:ok, modules} = :application.get_key(:snakepit, :modules)

    for module <- Enum.sort(modules),
        {_, _, _, _, own, _, functions} <- [Code.fetch_docs(module)],
        docs = [{"", own} | for({{_, name, _}, _, _, doc, _} <- functions, do: {".#{name}", doc})],
        {name, %{"en" => doc}} <- docs,
        {module, name} != {Snakepit, ""},
        [code] <- Regex.scan(@blocks, doc, capture: :all_but_first),
        not (code =~ ~r/\A\s*(iex>|mix |\$ )/),
        do: {"#{inspect(module)}#{name}", code}
  end

  defp run(code, where) do
    cond do
      code =~ ~r/^ *config :/m or code =~ @only_parsed ->
        Snippets.check(unindented(code), where)

      code =~ ~r/^ *def /m and not (code =~ ~r/^ *(defmodule|defimpl) /m) ->
        run_server(code, where)

      code =~ ~r/\{Snakepit\.Pool,\s/ ->
        [children | calls] = String.split(code, "\n\n    {:ok")
        {children, _} = Code.eval_string(children, [], file: where)
        Snippets.check_pools(children)
        Snippets.evaluate(Enum.map(calls, &("{:ok" <> &1)), where)

      true ->
        Snippets.evaluate([code], where)
    end
  end

  # Callbacks of a GenServer, which ends when its stream has.
  defp run_server(code, where) do
    name = Module.concat(__MODULE__, "Server#{System.unique_integer([:positive])}")
    Code.eval_string("defmodule #{inspect(name)} do use GenServer\n#{code}\nend", [], file: where)
    {:ok, server} = GenServer.start(name, [])
    monitor = Process.monitor(server)
    assert_receive {:DOWN, ^monitor, :process, ^server, :normal}
  end

  defp unindented(code), do: String.replace(code, ~r/^ {4}/m, "")
end
