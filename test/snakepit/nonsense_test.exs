defmodule Snakepit.NonsenseTest do
  # Whatever a public function receives, it returns an error or raises one that says what it
  # expected.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Adapters.{GenericPythonV2, GRPCPython}
  alias Snakepit.{AdapterFallback, Call, Config, Error, Pool, Tensor}
  alias Snakepit.Config.Options
  alias Snakepit.GRPC.Client

  @max 4_294_967_295

  setup_all do
    %{pool: start_pool!()}
  end

  defp nonsense do
    [nil, true, :atom, -1, 0, 1.5, 2 ** 32, 2 ** 64, -(2 ** 64), 10 ** 30] ++
      ["", "text", "a\0b", <<255>>, <<1::3>>, String.duplicate("x", 100_000)] ++
      [[], [1], [:a | :b], [{"a", 1} | :b], [{:timeout, 1} | :b], [a: 1], [timeout: nil]] ++
      [%{}, %{1 => 2}, %{a: self()}, {}, {1, 2}, ~D[2026-01-01], %Call{ref: nil, handle: nil}] ++
      [%Call{ref: 1, handle: make_ref()}, %Tensor{data: 1, dtype: 2, shape: 3}, %Error{}] ++
      [self(), make_ref(), fn -> 1 end, fn _ -> 1 end, hd(Port.list())]
  end

  # The arguments with which `fun` is called: each argument in turn is nonsense, the others are
  # valid.
  defp calls(good) do
    for {_, at} <- Enum.with_index(good),
        wrong <- nonsense(),
        do: List.replace_at(good, at, wrong)
  end

  defp try!(module, name, good) do
    for args <- calls(good) do
      where = "#{inspect(module)}.#{name}(#{inspect(args, limit: 10, printable_limit: 50)})"

      try do
        apply(module, name, args)
      rescue
        error in [ArgumentError] ->
          assert error.message =~ "expected", where <> " raises: " <> error.message

        error in [Error] ->
          assert is_binary(error.message), where
      catch
        kind, reason ->
          flunk("#{where}: #{Exception.format(kind, reason, __STACKTRACE__)}")
      else
        {:error, error} -> assert %Error{message: <<_, _::binary>>} = error
        _fine -> :ok
      end
    end
  end

  test "calls, streams and sessions refuse nonsense", %{pool: pool} do
    options = [pool: pool]
    each = fn _ -> nil end
    try!(Snakepit, :execute, ["ping", %{}, options])
    try!(Snakepit, :execute_in_session, ["s", "ping", %{}, options])
    try!(Snakepit, :execute_stream, ["ping_stream", %{count: 1}, each, options])
    try!(Snakepit, :execute_in_session_stream, ["s", "ping_stream", %{count: 1}, each, options])
    try!(Snakepit, :end_session, ["s", options])
    try!(__MODULE__, :enumerate, ["ping_stream", %{count: 1}, options])
    try!(__MODULE__, :start_and_cancel, ["ping_stream", %{count: 1}, options])
    try!(AdapterFallback, :execute_with_fallback, ["ping", %{}, options])
    try!(Snakepit, :bytes, ["x"])
    assert {:ok, _} = Snakepit.execute("ping", %{}, options)
  end

  def enumerate(command, args, options),
    do: command |> Snakepit.stream(args, options) |> Enum.take(1)

  def start_and_cancel(command, args, options) do
    with {:ok, call} <- Snakepit.start_stream(command, args, options), do: Snakepit.cancel(call)
  end

  test "each option of a call refuses nonsense", %{pool: pool} do
    for {option, _type} <- Options.stream(), wrong <- nonsense() do
      options = [{option, wrong}, {:pool, pool}]

      for result <- [
            Snakepit.execute("ping", %{}, options),
            Snakepit.execute_stream("ping_stream", %{count: 1}, fn _ -> nil end, options)
          ] do
        case result do
          {:error, error} -> assert %Error{message: <<_, _::binary>>} = error
          fine -> assert fine == :ok or match?({:ok, _}, fine)
        end
      end
    end
  end

  test "requests to a stream that was started refuse nonsense", %{pool: pool} do
    {:ok, call} = Snakepit.start_stream("counted", %{count: 1_000_000}, pool: pool, demand: 1)
    try!(Snakepit, :ask, [call, 1])
    try!(Snakepit, :cancel, [call])

    for chunks <- [0, @max + 1, 2 ** 64],
        do:
          assert_raise(ArgumentError, ~r/from 1 to 4294967295/, fn ->
            Snakepit.ask(call, chunks)
          end)

    assert :ok = Snakepit.ask(call, @max)
    Snakepit.cancel(call)
  end

  test "queries to a pool refuse nonsense", %{pool: pool} do
    for ask <- [:health, :info, :stats, :list_workers], do: try!(Snakepit, ask, [pool])
    try!(Pool, :await_ready, [pool, 1_000])
    assert {:error, %Error{reason: :invalid_options}} = Pool.await_ready(pool, 2 ** 33)
  end

  test "an invalid pool name is reported in the same way everywhere", %{pool: pool} do
    for wrong <- [
          "x",
          ~c"x",
          self(),
          make_ref(),
          nil,
          true,
          1,
          {pool, "node"},
          {pool, nil},
          [pool],
          %{}
        ] do
      for ask <- [
            &Snakepit.health/1,
            &Snakepit.info/1,
            &Snakepit.stats/1,
            &Snakepit.list_workers/1,
            &Pool.await_ready/1,
            &Snakepit.execute("ping", %{}, pool: &1),
            &Snakepit.execute_stream("ping_stream", %{}, fn _ -> nil end, pool: &1),
            &Snakepit.start_stream("ping_stream", %{}, pool: &1),
            &Snakepit.end_session("s", pool: &1),
            &AdapterFallback.execute_with_fallback("ping", %{}, pool: &1)
          ] do
        assert {:error, %Error{reason: :invalid_options, message: message}} = ask.(wrong)
        assert message =~ "the name of a pool, an atom"
        assert message =~ "got: #{inspect(wrong)}"
      end
    end
  end

  test "each option of a pool refuses nonsense" do
    try!(Pool, :child_spec, [[name: :nonsense]])

    for {option, _type} <- Config.types(), wrong <- nonsense() do
      with {:error, error} <- Config.pool([{option, wrong}]) do
        assert %Error{reason: :invalid_options, message: message} = error
        assert message =~ inspect(option)
      end
    end

    for wrong <- nonsense() -- [[]],
        do: assert({:error, %Error{reason: :invalid_options}} = Pool.start_link(wrong))
  end

  test "a channel refuses nonsense" do
    try!(Client, :connect, ["unix:/nowhere/at/all", []])

    for {option, _} <- [secret: "", timeout: 1, max_message_size: 1], wrong <- nonsense() do
      assert {:error, %Error{}} = Client.connect("unix:/nowhere/at/all", [{option, wrong}])
    end

    for target <- nonsense() do
      for {name, args} <- [execute: ["ping"], health: [], get_info: [], start_stream: ["ping"]] do
        assert_raise ArgumentError, ~r/expected a connection/, fn ->
          apply(Client, name, [target | args])
        end
      end

      assert_raise ArgumentError, ~r/expected a connection/, fn ->
        Client.execute_stream(target, "ping", %{}, fn _ -> nil end)
      end
    end

    try!(Client, :encode_args, [%{a: 1}])
    try!(Client, :decode_result, [%{"a" => "1"}])
    try!(GRPCPython, :init_grpc_connection, [1])
  end

  test "tensors refuse nonsense" do
    try!(Tensor, :new, [<<1>>, :uint8, {1}])
    for name <- [:from_nx, :to_nx], do: try!(Tensor, name, [nil])
  end

  describe "the largest numbers that options take" do
    for {kind, way} <- ways() do
      test "work, over #{kind}" do
        largest =
          for {option, type} <- Config.types(),
              largest = largest(option, type),
              not Config.for_endpoints?(option),
              do: {option, largest}

        pool = start_pool!(largest ++ unquote(Macro.escape(way)))
        options = [pool: pool, timeout: @max, queue_timeout: @max]
        assert {:ok, %{"result" => 3}} = Snakepit.execute("add", %{a: 1, b: 2}, options)
        assert {:ok, _} = Snakepit.execute_in_session("s", "tally", %{}, options)

        if unquote(way[:server]) do
          times = [demand: 10_000_000, first_chunk_timeout: @max, idle_timeout: @max]
          stream = Snakepit.stream("counted", %{count: 3}, times ++ options)
          assert Enum.count(stream) == 3
        end

        assert {:ok, [%{state: :ready, os_pid: os_pid}]} = Snakepit.list_workers(pool)
        # The capacity for calls takes no memory before there are calls.
        assert length(File.ls!("/proc/#{os_pid}/task")) < 100
        stop_supervised!({Pool, pool})
      end
    end

    # Each at its limit; one more exceeds it.
    defp largest(option, type) when option not in [:size, :thread_limit] do
      case type do
        {kind, max} when kind in [:positive, :count] -> max
        :timeout -> @max
        :millis -> 1_000_000_000
        :bytes -> 2_147_483_647
        :range -> {1_000_000_000, 1_000_000_000}
        _ -> nil
      end
    end

    defp largest(_option, _type), do: nil

    test "are the largest" do
      for {option, type} <- Config.types(), largest = largest(option, type) do
        others = if Config.for_endpoints?(option), do: [endpoints: ["tcp:far:1"]], else: []
        assert {:ok, _} = Config.pool([{option, largest} | others])
        more = with {first, last} <- largest, do: {first, last + 1}
        more = if is_integer(more), do: more + 1, else: more
        assert {:error, %Error{message: message}} = Config.pool([{option, more} | others])
        assert message =~ "at most"
      end
    end
  end

  defmodule Careless do
    @behaviour Snakepit.Adapter

    @impl true
    defdelegate executable_path, to: GenericPythonV2
    @impl true
    defdelegate command_line(worker), to: GenericPythonV2
    @impl true
    def validate_command("echo", _args), do: :nonsense
    def validate_command(_command, _args), do: :ok
    @impl true
    def command_timeout("ping", _args), do: 2 ** 64
    def command_timeout(_command, _args), do: nil
  end

  test "nonsense from an adapter's callbacks is refused" do
    pool = start_pool!(adapter: Careless)

    assert {:error, %Error{reason: :adapter_error, command: "echo", message: message}} =
             Snakepit.execute("echo", %{}, pool: pool)

    assert message =~
             "Careless.validate_command/2 returned :nonsense; expected :ok or {:error,"

    assert {:error, %Error{reason: :adapter_error, message: message}} =
             Snakepit.execute("ping", %{}, pool: pool)

    assert message =~
             "Careless.command_timeout/2 returned 18446744073709551616; expected a number of milliseconds above 0"

    for {command, args, wanted} <- [
          {<<255>>, %{}, :unknown_command},
          {nil, %{}, :unknown_command},
          {"add", self(), :invalid_args},
          {"add", [1], :invalid_args}
        ] do
      assert {:error, %Error{reason: ^wanted}} = Snakepit.execute(command, args, pool: pool)
    end
  end
end
