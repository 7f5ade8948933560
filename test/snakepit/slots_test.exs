defmodule Snakepit.SlotsTest do
  # What belongs to a worker's place in its pool: environment, cores, priority, memory.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Config, Error}
  alias Snakepit.Config.Env

  @moduletag :tmp_dir
  @secret "sk-s3cret-of-a-slot"

  # A function of the pool's `:env`.
  def variables(slot, prefix),
    do: %{"SLOT_NAME" => "#{prefix}#{slot}", "SLOT_SECRET" => @secret, "SLOT_UNSET" => nil}

  def raising(_slot), do: raise(KeyError, key: "no", term: %{password: @secret})

  defp start!(dir, options) do
    File.write!(Path.join(dir, "slot_commands.py"), """
    import os
    from snakepit_bridge import Adapter, Context, command

    class Slots(Adapter):
        @command
        def place(self, context: Context):
            return {
                "pid": os.getpid(),
                "slot": context.worker_slot,
                "variable": os.environ["SNAKEPIT_WORKER_SLOT"],
                "name": os.environ.get("SLOT_NAME"),
                "unset": "SLOT_UNSET" in os.environ,
                "cores": sorted(os.sched_getaffinity(0)),
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "worker": context.worker_id,
            }

        @command
        def fill(self, megabytes: int):
            return len(bytearray(megabytes * 1024 * 1024))
    """)

    args = [class: "slot_commands:Slots", paths: [dir]]
    start_pool!([adapter_args: args] ++ options)
  end

  # Calls until a worker of each slot has answered.
  defp places(pool, size) do
    eventually(fn ->
      found =
        1..(4 * size)
        |> Task.async_stream(fn _ -> Snakepit.execute("place", %{}, pool: pool) end,
          max_concurrency: 2 * size,
          timeout: :infinity
        )
        # A call may have gone to the worker that was killed.
        |> Enum.flat_map(fn {:ok, answer} ->
          with {:ok, place} <- answer, do: [place], else: (_ -> [])
        end)
        |> Map.new(&{&1["slot"], &1})

      if map_size(found) == size, do: found
    end)
  end

  # The first and the last of those that this process may use.
  defp two_cores do
    [_, list] = Regex.run(~r/Cpus_allowed_list:\s*(\S+)/, File.read!("/proc/self/status"))
    numbers = list |> String.split([",", "-"]) |> Enum.map(&String.to_integer/1)
    {List.first(numbers), List.last(numbers)}
  end

  for {way, options} <- ways() do
    @options options

    test "#{way}: each slot has its own environment, which its next worker keeps", %{tmp_dir: dir} do
      System.put_env("SLOT_UNSET", "inherited")
      {first, last} = two_cores()
      given = [env: {__MODULE__, :variables, ["w"]}, nice: 5, cpu_affinity: [[first], [last]]]
      pool = start!(dir, [size: 2] ++ given ++ @options)

      log =
        capture_log(fn ->
          before = places(pool, 2)
          signal("KILL", before[1]["pid"])
          after_death = eventually(fn -> changed(places(pool, 2), before, [1]) end)
          assert Snakepit.restart(pool) == :ok
          after_restart = eventually(fn -> changed(places(pool, 2), after_death, [0, 1]) end)

          for found <- [before, after_death, after_restart], {slot, place} <- found do
            assert place["variable"] == to_string(slot)
            assert place["name"] == "w#{slot}"
            assert place["unset"] == false
            assert place["cores"] == [elem({first, last}, slot)]
            assert place["nice"] == 5
            assert place["worker"] == "#{inspect(pool)}/#{slot + 1}"
          end
        end)

      refute log =~ @secret
      assert {:ok, workers} = Snakepit.list_workers(pool)
      assert Enum.map(workers, & &1.slot) == [0, 1]
    end

    test "#{way}: an allocation beyond :memory_limit fails with an error that names the option",
         %{
           tmp_dir: dir
         } do
      limit = 4 * 1024 * 1024 * 1024
      pool = start!(dir, [memory_limit: limit] ++ @options)
      assert {:ok, %{"result" => _}} = Snakepit.execute("fill", %{megabytes: 1}, pool: pool)
      before = os_pids(pool)

      assert {:error, %Error{reason: :python_error} = error} =
               Snakepit.execute("fill", %{megabytes: 8192}, pool: pool)

      assert error.details.type == "MemoryError"
      assert error.message =~ ":memory_limit"
      assert error.message =~ "4,294,967,296 bytes"
      assert os_pids(pool) == before
    end
  end

  defp changed(now, before, slots),
    do: if(Enum.all?(slots, &(now[&1]["pid"] != before[&1]["pid"])), do: now)

  test "a worker that does not start within :memory_limit says that it may be too small" do
    pool = start_pool_unready!(memory_limit: 24 * 1024 * 1024)
    assert {:error, %Error{reason: :worker_start_failed} = error} = await_ready(pool)
    assert error.message =~ ":memory_limit"
  end

  test "what a function of the slot does wrong is an error at the pool's start, without values" do
    for {env, parts} <- [
          {fn _slot -> %{"A" => @secret <> "\0"} end, ["slot 0", ~s("A" with a NUL)]},
          {fn slot -> if slot == 1, do: [@secret], else: %{} end, ["slot 1", "not a pair"]},
          {fn _slot -> fn _ -> @secret end end, ["neither a map nor a list"]},
          {&__MODULE__.raising/1, ["raised KeyError", "slots_test.exs"]},
          {{__MODULE__, :raising, []}, ["SlotsTest.raising/1", "raised KeyError"]},
          {fn _slot -> throw(@secret) end, ["threw a value"]},
          {fn -> %{} end, ["does not take one argument"]},
          {{__MODULE__, :nowhere, [1]}, ["no function", "nowhere/2"]},
          {{"a", :b}, ["neither a map nor a list"]},
          {{"a", :b, @secret}, ["a tuple"]}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.Pool.start_link(name: __MODULE__.Wrong, size: 2, env: env)

      assert message =~ "option :env"
      for part <- parts, do: assert(message =~ part)
      refute message =~ @secret
    end
  end

  test "cores, priority and memory are checked at the pool's start" do
    for {option, parts} <- [
          {[cpu_affinity: [0, 1]], ["a list of cores for each slot"]},
          {[cpu_affinity: []], ["a list of cores for each slot"]},
          {[cpu_affinity: [[]]], ["a list of cores for each slot"]},
          {[cpu_affinity: [[0], [-1]]], ["a list of cores for each slot"]},
          {[nice: 20], ["-20 to 19", "20"]},
          {[nice: "5"], ["-20 to 19"]},
          {[memory_limit: 0], ["bytes above 0"]},
          {[memory_limit: :infinity], ["bytes above 0"]}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} = Config.pool(option)
      assert message =~ option |> Keyword.keys() |> hd() |> inspect()
      for part <- parts, do: assert(message =~ part)
    end
  end

  # Without /sys, as in some containers, the worker's start finds it.
  unless File.exists?("/sys/devices/system/cpu/online"), do: @tag(skip: "/sys is not mounted")

  test "a core that the machine lacks is named at the pool's start" do
    options = [cpu_affinity: [[0], [1000]]]
    assert {:error, %Error{reason: :invalid_options, message: message}} = Config.pool(options)

    for part <- [":cpu_affinity", "core 1000", "the cores of this machine are"],
        do: assert(message =~ part)
  end

  test "a function's variables are hidden in every inspected term" do
    env = Env.wrap(fn _slot -> %{"A" => @secret} end)
    assert inspect(env) == "#Snakepit.Config.Env<a function of the slot>"
    {:ok, %{env: env}} = Config.pool(env: env)
    assert {:ok, variables} = Env.of_slot(env, 0)
    assert inspect(variables) == ~s(#Snakepit.Config.Env<["A"]>)
    spec = Snakepit.Pool.child_spec(env: {__MODULE__, :variables, [@secret]})
    refute inspect(spec) =~ @secret
  end

  test "the fallback's workers get the environment of their slots" do
    env = fn slot -> %{"SLOT_NAME" => "f#{slot}", "PYTHONPATH" => no_sockets()} end
    pool = start_pool_unready!(size: 1, env: env)

    assert {:ok, %{"result" => ["f0", "0"]}} =
             Snakepit.AdapterFallback.execute_with_fallback(
               "environment",
               %{names: ["SLOT_NAME", "SNAKEPIT_WORKER_SLOT"]},
               pool: pool,
               fallback_adapter: Snakepit.Adapters.GenericPythonV2
             )
  end

  defp no_sockets, do: Path.expand("test/support/python/no_sockets")
end
