for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "AnnotationsOver#{kind}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @way way
    @python Path.expand("../support/python", __DIR__)

    setup_all do
      args = [class: "annotated_commands:AnnotatedCommands", paths: [@python]]
      %{pool: start_pool!([adapter_args: args] ++ @way)}
    end

    defp result(command, args, pool) do
      assert {:ok, result} = Snakepit.execute(command, args, pool: pool)
      result
    end

    defp error(command, args, pool) do
      assert {:error, %Error{reason: :invalid_args} = error} =
               Snakepit.execute(command, args, pool: pool)

      error
    end

    @user %{name: "Ada", age: 36, address: %{street: "St"}, friends: [%{name: "Bo", age: 1}]}
    @shown "User User(name='Ada', age=36, address=Address(street='St', zip_code=None), " <>
             "friends=[User(name='Bo', age=1, address=None, friends=[])])"

    test "a dataclass is built from a map, including nested values", %{pool: pool} do
      assert result("user", %{user: @user}, pool) == %{"result" => @shown}
      assert result("user_async", %{user: @user}, pool) == %{"result" => @shown}
    end

    test "a fault within an argument has its path", %{pool: pool} do
      user = %{@user | age: "36", friends: [%{name: "Bo", age: 1, nick: "b"}, 7]}

      for command <- ["user", "user_async"] do
        error = error(command, %{user: put_in(user.address, %{street: 1})}, pool)

        assert error.message ==
                 """
                 of the wrong type user: the command is #{command}(user: User)
                   user.age: expected int, got str '36'
                   user.address.street: expected str, got int 1
                   user.friends[0].nick: unknown: the fields are name, age, address, friends
                   user.friends[1]: expected User, got int 7\
                 """

        assert Enum.at(error.details.errors, 0) == %{
                 "path" => ["user", "age"],
                 "message" => "expected int, got str '36'"
               }

        assert Enum.map(error.details.errors, & &1["path"]) == [
                 ["user", "age"],
                 ["user", "address", "street"],
                 ["user", "friends", 0, "nick"],
                 ["user", "friends", 1]
               ]
      end

      error = error("user", %{user: %{name: "Bo", age: -1}}, pool)
      assert error.message =~ "user (ValueError: nobody is that young)"
      assert %{errors: [%{"path" => ["user"]}]} = error.details

      assert error("user", %{user: %{age: 1}}, pool).message =~ "\n  user.name: missing"

      assert %{errors: [%{"path" => ["user"], "message" => "missing"}]} =
               error("user", %{}, pool).details
    end

    test "a pydantic model validates, alone and in lists and dicts", %{pool: pool} do
      order = %{item: "tea", count: 2, due: ~D[2026-01-31]}
      shown = "Order(item='tea', count=2, due=datetime.date(2026, 1, 31))"
      args = %{orders: [order], by_name: %{a: order}}
      assert result("orders", args, pool) == %{"result" => "[#{shown}] {'a': #{shown}}"}

      error = error("orders", %{orders: [order, %{count: 0}]}, pool)

      assert error.message =~
               "\n  orders[1].item: Field required\n  orders[1].count: Input should be greater than 0"

      assert [%{"path" => ["orders", 1, "item"]}, %{"path" => ["orders", 1, "count"]}] =
               error.details.errors
    end

    test "values that are sent as text are converted", %{pool: pool} do
      uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

      args = %{
        color: :blue,
        moment: ~U[2026-01-31 12:30:00.5Z],
        day: ~D[2026-01-31],
        time: ~T[12:30:00],
        duration: 60.5,
        price: "1.10",
        uuid: uuid,
        path: "/tmp/x",
        user_id: 7,
        positive: 3,
        url: "https://a.b/c"
      }

      assert result("scalars", args, pool) == %{
               "color" => "Color <Color.BLUE: 'blue'>",
               "moment" =>
                 "datetime datetime.datetime(2026, 1, 31, 12, 30, 0, 500000, tzinfo=datetime.timezone.utc)",
               "day" => "date datetime.date(2026, 1, 31)",
               "time" => "time datetime.time(12, 30)",
               "duration" => "timedelta datetime.timedelta(seconds=60, microseconds=500000)",
               "price" => "Decimal Decimal('1.10')",
               "uuid" => "UUID UUID('#{uuid}')",
               "path" => "PosixPath PosixPath('/tmp/x')",
               "user_id" => "int 7",
               "positive" => "int 3",
               "url" => "HttpUrl HttpUrl('https://a.b/c')"
             }

      for {args, problem} <- [
            {%{color: "green"}, "color (expected Color, one of 'red', 'blue', got str 'green')"},
            {%{moment: "soon"}, "moment ('soon' is not a valid datetime.datetime"},
            {%{day: 5}, "day (expected Optional[dt.date], got int 5)"},
            {%{duration: true}, "duration (expected Optional[dt.timedelta], got bool True)"},
            {%{price: "much"}, "price ('much' is not a valid decimal.Decimal)"},
            {%{uuid: "x"}, "uuid ('x' is not a valid uuid.UUID"},
            {%{user_id: "7"}, "user_id (expected Optional["},
            {%{positive: 0}, "positive (Input should be greater than 0)"},
            {%{positive: "1"}, "positive (expected int, got str '1')"},
            {%{url: "x"}, "url (Input should be a valid URL"}
          ] do
        assert error("scalars", args, pool).message =~ "of the wrong type " <> problem
      end
    end

    test "containers are built from lists and maps", %{pool: pool} do
      args = %{
        pair: {1, "a"},
        numbers: [1, 2],
        tags: ["a", "a"],
        by_number: %{1 => :red},
        movie: %{title: "M"},
        point: %{x: 1},
        either: %{year: 1931},
        binaries: ["text", <<255>>]
      }

      assert result("containers", args, pool) == %{
               "pair" => "tuple (1, 'a')",
               "numbers" => "tuple (1, 2)",
               "tags" => "set {'a'}",
               "by_number" => "dict {1: <Color.RED: 'red'>}",
               "movie" => "dict {'title': 'M'}",
               "point" => "Point Point(x=1, y=0.0)",
               "either" => "dict {'year': 1931}",
               "binaries" => ~S(list [b'text', b'\xff'])
             }

      assert result("containers", %{point: [1, 2.5]}, pool) == %{
               "point" => "Point Point(x=1, y=2.5)"
             }

      error = error("containers", %{by_number: %{"x" => :red}, tags: [1], pair: [1, 2]}, pool)
      assert error.message =~ "\n  by_number.x: the key: expected int, got str 'x'"
      assert error.message =~ "\n  tags[0]: expected str, got int 1"
      assert error.message =~ "\n  pair[1]: expected str, got int 2"
    end

    test "further keywords are converted as well", %{pool: pool} do
      assert result("rest", %{a: %{x: 1}}, pool) == %{"a" => "Point Point(x=1, y=0.0)"}

      assert error("rest", %{a: %{x: "1"}}, pool).message =~
               "\n  a.x: expected float, got str '1'"
    end

    test "an argument without annotation, or with Any, arrives unchanged", %{pool: pool} do
      assert result("anything", %{value: %{a: 1}, other: "x"}, pool) == %{
               "result" => "dict {'a': 1} str 'x'"
             }
    end

    if way[:server] do
      test "arguments of streams are converted as well", %{pool: pool} do
        for command <- ["user_stream", "user_async_stream"] do
          assert [%{"user" => @shown}] =
                   command |> Snakepit.stream(%{user: @user}, pool: pool) |> Enum.to_list()

          assert {:error, %Error{reason: :invalid_args, details: %{errors: [error]}}} =
                   Snakepit.execute_stream(command, %{user: %{name: 1, age: 1}}, & &1, pool: pool)

          assert error == %{"path" => ["user", "name"], "message" => "expected str, got int 1"}
        end
      end
    end

    @tag :tmp_dir
    test "a worker with an annotation to which no argument can be converted does not start", %{
      tmp_dir: dir
    } do
      File.write!(Path.join(dir, "callable_commands.py"), """
      from collections.abc import Callable
      from snakepit_bridge import Adapter, command

      class Commands(Adapter):
          @command
          def run(self, callback: Callable[[], int]): ...
      """)

      args = [class: "callable_commands:Commands", paths: [dir]]
      pool = start_pool_unready!([adapter_args: args] ++ @way)
      assert {:error, %Error{reason: :worker_start_failed, message: message}} = await_ready(pool)

      assert message =~
               "command 'run': the parameter 'callback' is annotated with " <>
                 "collections.abc.Callable[[], int], to which no argument can be converted: annotate it with"
    end
  end
end
