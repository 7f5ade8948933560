defmodule Snakepit.LiveDashboardTest do
  # What the page of LiveDashboard shows; the page itself is below.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.LiveDashboard

  setup_all do
    # Unless it is that of the tests.
    Application.ensure_all_started(:telemetry)
    :ok
  end

  # The pool's part of what a page shows. Other tests have pools of their own.
  defp pool(view, pool), do: Enum.find(view.pools, &(&1.name == inspect(pool)))

  test "shows a node's pools, workers, times, commands and errors, as texts" do
    pool = start_pool!(size: 2)
    view = LiveDashboard.open(node(), true)
    {:ok, _} = Snakepit.execute("add", %{a: 1}, pool: pool)
    {:error, _} = Snakepit.execute("fail", %{message: "no such thing"}, pool: pool)

    assert %{problem: nil} = view = LiveDashboard.refresh(view)
    assert %{lines: lines, tables: [workers, commands]} = pool(view, pool)
    lines = lines |> Enum.concat() |> Map.new()
    assert %{"ready" => "2 of 2", "queued" => 0, "last minute" => "0.0 calls/s"} = lines
    assert lines["execution"] =~ ~r/^p50 [\d.]+ (us|ms|s)  p90 [\d.]+ \w+  p99 [\d.]+ \w+$/

    assert [%{cells: [first, "ready" | _], notes: [], bad: false}, %{cells: [second | _]}] =
             workers.rows

    assert [first, second] == ["#{inspect(pool)}/1", "#{inspect(pool)}/2"]
    assert length(workers.titles) == length(hd(workers.rows).cells)
    rows = for %{cells: cells} <- commands.rows, do: cells
    assert Enum.sort(rows) == [["add", 1, ""], ["fail", 1, "1 python_error"]]

    assert %{text: "fail: python_error: " <> _} =
             Enum.find(view.errors, &(&1.pool == inspect(pool)))
  end

  @tag :tmp_dir
  test "shows why a worker is not there, and the progress of calls", %{tmp_dir: dir} do
    options = [restart_backoff: {60_000, 60_000}, adapter_args: [class: "nowhere:Class"]]
    failed = start_pool_unready!(options)
    {:error, _} = await_ready(failed)
    class = [class: "report_commands:Reports", paths: ["test/support/python"]]
    pool = start_pool!(adapter_args: class)
    until = Path.join(dir, "until")
    task = Task.async(Snakepit, :execute, ["train_until", %{until: until}, [pool: pool]])

    eventually(fn ->
      %{tables: [%{rows: [row]} | _]} = node() |> LiveDashboard.open(false) |> pool(pool)
      row.notes == ["train_until   40 %  epoch 2"]
    end)

    view = LiveDashboard.open(node(), false)
    assert %{tables: [%{rows: [%{bad: true, notes: [reason]}]}]} = pool(view, failed)
    assert reason =~ "it exited with status 1"
    File.touch!(until)
    assert {:ok, _} = await(task)
  end

  test "a node that cannot be reached is a text, now and later" do
    view = LiveDashboard.open(:nobody@nowhere, true)
    assert %{problem: problem, pools: [], errors: []} = view
    assert problem =~ "nobody@nowhere cannot be observed"
    assert LiveDashboard.refresh(view) == view
  end

  test "the menu has the page where Snakepit is" do
    assert LiveDashboard.menu_link(%{modules: [Snakepit]}) == {:ok, "Snakepit"}
    assert LiveDashboard.menu_link(%{modules: []}) == {:disabled, "Snakepit"}
  end

  unless Code.ensure_loaded?(Phoenix.LiveDashboard.PageBuilder) do
    test "where LiveDashboard is no dependency, the page says what to add" do
      error = assert_raise ArgumentError, fn -> Code.eval_string("use Snakepit.LiveDashboard") end
      assert error.message =~ ~s({:phoenix_live_dashboard, "~> 0.8"})
    end
  end
end

# With the libraries of an application that has them:
#
#     export ERL_LIBS=/path/to/my_app/_build/test/lib MIX_BUILD_PATH=_build/dashboard
#     mix test test/snakepit/live_dashboard_test.exs
#
# The application depends on phoenix_live_dashboard, floki and jason, and not on Snakepit. The build is another one because
# the tests have a :telemetry of their own otherwise.
if Code.ensure_loaded?(Phoenix.LiveDashboard.PageBuilder) do
  defmodule Snakepit.LiveDashboardTest.Page do
    use Snakepit.LiveDashboard
  end

  defmodule Snakepit.LiveDashboardTest.Router do
    use Phoenix.Router, helpers: false

    import Phoenix.LiveDashboard.Router

    pipeline :browser do
      plug(:fetch_session)
    end

    scope "/" do
      pipe_through(:browser)
      live_dashboard("/dashboard", additional_pages: [snakepit: Snakepit.LiveDashboardTest.Page])
    end
  end

  defmodule Snakepit.LiveDashboardTest.Endpoint do
    use Phoenix.Endpoint, otp_app: :phoenix_live_dashboard

    socket("/live", Phoenix.LiveView.Socket)
    plug(Plug.Session, store: :cookie, key: "snakepit", signing_salt: "for a test")
    plug(Snakepit.LiveDashboardTest.Router)
  end

  defmodule Snakepit.LiveDashboardPageTest do
    use ExUnit.Case, async: false

    import Phoenix.ConnTest
    import Phoenix.LiveViewTest
    import Snakepit.Test.Pools

    alias Snakepit.LiveDashboardTest.{Endpoint, PubSub}

    @endpoint Endpoint

    setup_all do
      for app <- [:phoenix_live_view, :phoenix_live_dashboard],
          do: {:ok, _} = Application.ensure_all_started(app)

      Application.put_env(:phoenix_live_dashboard, Endpoint,
        secret_key_base: String.duplicate("s", 64),
        live_view: [signing_salt: "for a test"],
        pubsub_server: PubSub,
        server: false
      )

      start_supervised!({Phoenix.PubSub, name: PubSub})
      start_supervised!(Endpoint)
      :ok
    end

    defp refresh(view) do
      send(view.pid, :refresh)
      render(view)
    end

    defp handlers, do: length(:telemetry.list_handlers([:snakepit, :call, :exception]))

    test "the page is rendered and refreshed, and observes nothing once it is closed" do
      pool = start_pool!()
      before = handlers()
      {:ok, view, html} = live(build_conn(), "/dashboard/snakepit")
      assert html =~ "Snakepit" and html =~ "#{inspect(pool)}/1"
      assert render(view) =~ "1 of 1"
      assert handlers() == before + 1

      {:ok, _} = Snakepit.execute("add", %{a: 1}, pool: pool)
      {:error, _} = Snakepit.execute("fail", %{message: "<b>no</b>"}, pool: pool)
      html = refresh(view)
      assert html =~ ~r{execution</span> p50 [\d.]+ (us|ms|s)}
      assert html =~ "1 python_error"
      assert html =~ "fail: python_error: "
      # What Python says is no HTML.
      assert html =~ "&lt;b&gt;no&lt;/b&gt;" and not (html =~ "<b>no")

      # Neither text nor UTF-8.
      {:error, _} = Snakepit.execute({:no, "command"}, %{}, pool: pool)
      {:error, _} = Snakepit.execute(<<255>>, %{}, pool: pool)
      html = refresh(view)
      assert html =~ "{:no, &quot;command&quot;}: unknown_command"
      assert html =~ "&lt;&lt;255&gt;&gt;: unknown_command"

      stop_supervised!({Snakepit.Pool, pool})
      refute refresh(view) =~ "#{inspect(pool)}/1"
      monitor = Process.monitor(view.pid)
      Process.unlink(view.pid)
      Process.exit(view.pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, _pid, _killed}
      eventually(fn -> handlers() == before end)
    end

    test "the dashboard's other pages have a link to it" do
      {:ok, _view, html} = live(build_conn(), "/dashboard/home")
      assert html =~ "/dashboard/snakepit"
    end
  end
else
  reason =
    "phoenix_live_dashboard is not on the code path; test/snakepit/live_dashboard_test.exs says how to add it"

  IO.puts(:stderr, "the page of LiveDashboard is not tested: #{reason}")

  defmodule Snakepit.LiveDashboardPageTest do
    use ExUnit.Case, async: true

    @moduletag skip: reason

    test "the page is rendered and refreshed, and observes nothing once it is closed", do: :ok
  end
end
