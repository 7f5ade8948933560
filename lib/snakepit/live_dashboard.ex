defmodule Snakepit.LiveDashboard do
  @moduledoc """
  A page of [Phoenix LiveDashboard](https://hexdocs.pm/phoenix_live_dashboard) that shows a node's pools: their workers,
  the times and errors of their calls, and the last errors.

  Define the page in your application, which depends on `phoenix_live_dashboard` (0.8 or newer):

  ```exs
  defmodule MyAppWeb.SnakepitPage do
    use Snakepit.LiveDashboard
  end
  ```

  and add it to the dashboard in the router:

  ```exs
  live_dashboard "/dashboard", additional_pages: [snakepit: MyAppWeb.SnakepitPage]
  ```

  This `use` compiles the page there: Snakepit itself does not depend on Phoenix.

  For each pool the page shows what `Snakepit.stats/1` and `Snakepit.list_workers/1` return: how many workers are ready, the
  rate, the times and the percentiles of the last minute's calls, the calls and errors of each command since the pool was
  started, and each worker with its memory, its CPU, the progress of its calls, or why it is not there. Below are the last
  errors, of calls and of workers, since the page was opened. For these it attaches handlers to the events of failed calls, on
  the node that it shows, and removes them when it is closed.
  """

  alias Snakepit.Top.{Collector, Format, Sample}

  # How long to wait for a node's answer, in ms: longer than a pool waits for its workers.
  @patience 10_000
  # How many commands of a pool to show: those with the most calls.
  @commands 20

  @doc "Makes the calling module a page of LiveDashboard."
  @doc since: "0.1.0"
  defmacro __using__(_options) do
    unless Code.ensure_loaded?(Phoenix.LiveDashboard.PageBuilder) do
      raise ArgumentError,
            "use Snakepit.LiveDashboard needs Phoenix LiveDashboard: add " <>
              ~s({:phoenix_live_dashboard, "~> 0.8"} to the dependencies in mix.exs)
    end

    quote do
      use Phoenix.LiveDashboard.PageBuilder

      @impl true
      def init(options), do: {:ok, options, module: Snakepit}

      @impl true
      def menu_link(_session, capabilities), do: Snakepit.LiveDashboard.menu_link(capabilities)

      @impl true
      def mount(_params, _session, socket) do
        node = socket.assigns.page.node
        view = Snakepit.LiveDashboard.open(node, Phoenix.LiveView.connected?(socket))
        {:ok, assign(socket, :snakepit, view)}
      end

      @impl true
      def handle_refresh(socket),
        do: {:noreply, update(socket, :snakepit, &Snakepit.LiveDashboard.refresh/1)}

      @impl true
      def render(var!(assigns)) do
        ~H"""
        <div :if={@snakepit.problem} class="alert alert-warning" id="snakepit-problem">
          <%= @snakepit.problem %>
        </div>
        <div :for={pool <- @snakepit.pools} class="snakepit-pool">
          <.card_title title={pool.name} />
          <div :if={pool.problem} class="alert alert-warning"><%= pool.problem %></div>
          <div :if={!pool.problem} class="card tabular-card mb-4 mt-2">
            <div class="card-body p-0">
              <div class="px-3 pt-3">
                <div :for={line <- pool.lines}>
                  <span :for={{name, value} <- line} class="mr-4 d-inline-block">
                    <span class="text-muted"><%= name %></span> <%= value %>
                  </span>
                </div>
              </div>
              <div :for={table <- pool.tables} class="dash-table-wrapper">
                <table class="table table-hover mt-3 dash-table">
                  <thead><tr><th :for={title <- table.titles}><%= title %></th></tr></thead>
                  <tbody>
                    <%= for row <- table.rows do %>
                      <tr class={if row.bad, do: "table-warning", else: ""}>
                        <td :for={cell <- row.cells}><%= cell %></td>
                      </tr>
                      <tr :for={note <- row.notes} class={if row.bad, do: "table-warning", else: ""}>
                        <td colspan={length(table.titles)}><%= note %></td>
                      </tr>
                    <% end %>
                  </tbody>
                </table>
              </div>
            </div>
          </div>
        </div>
        <.card_title :if={@snakepit.errors != []} title="Last errors" />
        <div :if={@snakepit.errors != []} class="card tabular-card mb-4 mt-2" id="snakepit-errors">
          <div class="card-body p-0">
            <div class="dash-table-wrapper">
              <table class="table table-hover mt-0 dash-table">
                <tbody>
                  <tr :for={error <- @snakepit.errors}>
                    <td><%= error.time %></td>
                    <td><%= error.pool %></td>
                    <td class="text-wrap"><%= error.text %></td>
                  </tr>
                </tbody>
              </table>
            </div>
          </div>
        </div>
        """
      end
    end
  end

  @doc false
  def menu_link(%{modules: modules}) do
    if Snakepit in modules, do: {:ok, "Snakepit"}, else: {:disabled, "Snakepit"}
  end

  @doc false
  # What a page shows of a node. One that stays open, in the calling process, also shows the last errors.
  def open(node, stays?) do
    collector =
      with true <- stays?,
           {:ok, {:ok, collector}} <- call(node, Collector, :start, [self()]),
           do: collector,
           else: (_ -> nil)

    refresh(%{node: node, collector: collector})
  end

  @doc false
  def refresh(%{node: node, collector: collector}) do
    shown =
      case call(node, Sample, :take, [collector]) do
        {:ok, sample} -> shown(sample)
        {:error, problem} -> %{problem: problem, pools: [], errors: []}
      end

    Map.merge(shown, %{node: node, collector: collector})
  end

  # The node may have been left, or run another version.
  defp call(node, module, function, args) do
    {:ok, :erpc.call(node, module, function, args, @patience)}
  catch
    _kind, reason -> {:error, "#{node} cannot be observed: #{inspect(reason, limit: 10)}"}
  end

  defp shown(sample) do
    %{
      problem: if(sample.pools == [], do: "no pool is running"),
      pools: Enum.map(sample.pools, &pool/1),
      errors:
        for e <- sample.errors do
          %{time: Format.time(e.at), pool: inspect(e.pool), text: e.text}
        end
    }
  end

  defp pool(%{name: name, error: error}) when error != nil,
    do: %{name: inspect(name), problem: error}

  defp pool(%{name: name, stats: stats, workers: workers}) do
    %{
      name: inspect(name),
      problem: nil,
      lines: lines(stats),
      tables: [workers(workers) | commands(stats.commands)]
    }
  end

  defp lines(%{last_minute: minute} = stats) do
    [
      [
        {"ready", "#{stats.ready} of #{stats.size}"},
        {"last minute", Format.rate(minute.calls / 60, "calls")},
        {"execution", Format.times(minute.execution_us)},
        {"queue", Format.times(minute.queue_us)}
      ],
      [
        {"in flight", stats.in_flight},
        {"queued", stats.queued},
        {"sessions", stats.sessions},
        {"restarts", stats.restarts},
        {"recycled", stats.recycled},
        {"memory", Format.memory(stats.memory_bytes)}
      ]
    ]
  end

  defp workers(workers) do
    rows =
      for worker <- workers do
        notes = List.wrap(Format.reason(worker)) ++ Enum.map(worker.progress, &Format.progress/1)
        %{cells: Format.worker(worker), notes: notes, bad: worker.state != :ready}
      end

    %{titles: Format.titles(), rows: rows}
  end

  defp commands(commands) when commands == %{}, do: []

  defp commands(commands) do
    rows =
      for {name, counts} <-
            commands |> Enum.sort_by(&(-elem(&1, 1).calls)) |> Enum.take(@commands) do
        %{cells: [name, counts.calls, errors(counts.errors)], notes: [], bad: false}
      end

    [%{titles: ["command", "calls since the start", "errors"], rows: rows}]
  end

  defp errors(errors) do
    errors
    |> Enum.sort_by(&(-elem(&1, 1)))
    |> Enum.map_join(", ", fn {reason, count} -> "#{count} #{reason}" end)
  end
end
