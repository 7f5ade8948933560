defmodule Snakepit.Pool.Lifetime do
  @moduledoc false
  # The limits after which a ready worker is replaced: its calls, its age, its memory. Each worker
  # draws its own limits, at most a quarter below the pool's options, so that the workers of a pool
  # do not reach them together.
  #
  # The dispatcher counts the calls and reports their number when asked. Memory is measured at health
  # checks and after calls, but not more often than each `@between` ms.

  alias Snakepit.Pool.OSProcess

  @between 100

  defstruct [
    :requests,
    :age,
    :memory,
    # The option, without the part that was drawn.
    :max_memory,
    # When it became ready.
    :since,
    # How many of its calls have ended, when that was last reported.
    calls: 0,
    # Whether a limit was reached: once is enough.
    reached: false
  ]

  @type t :: %__MODULE__{}
  @type step :: {:ok, t} | {:reached, atom, String.t(), t} | {:dead, String.t()}

  @doc "Draws the limits of a worker that has become ready. The process gets `:max_age` at that age."
  @spec new(map) :: t
  def new(options) do
    lifetime = %__MODULE__{
      requests: draw(options.max_requests),
      age: draw(options.max_age),
      memory: draw(options.max_memory),
      max_memory: options.max_memory,
      since: System.monotonic_time()
    }

    if lifetime.age != :infinity, do: Process.send_after(self(), :max_age, lifetime.age)
    lifetime
  end

  defp draw(:infinity), do: :infinity
  defp draw(limit), do: limit - :rand.uniform(div(limit, 4) + 1) + 1

  @doc "The number of ended calls to be reported next, or nil."
  @spec report_at(t) :: pos_integer | nil
  def report_at(%{memory: memory, calls: calls}) when memory != :infinity, do: calls + 1
  def report_at(%{reached: true}), do: nil
  def report_at(%{requests: :infinity}), do: nil
  def report_at(%{requests: requests}), do: requests

  @doc "So many calls have ended. The process gets `:report_calls` when the next number may be reported."
  @spec served(t, pos_integer, OSProcess.t()) :: step
  def served(lifetime, calls, process) do
    lifetime = %{lifetime | calls: calls}
    if lifetime.memory != :infinity, do: Process.send_after(self(), :report_calls, @between)

    if lifetime.requests <= calls,
      do: reached(lifetime, :max_requests, "it has served #{calls} calls"),
      else: measure(lifetime, process)
  end

  @doc "It has the age that `new/1` has drawn."
  @spec old(t) :: step
  def old(lifetime), do: reached(lifetime, :max_age, "it has been ready for #{lifetime.age} ms")

  @doc "Measures its memory, if that is limited."
  @spec measure(t, OSProcess.t()) :: step
  def measure(%{memory: :infinity} = lifetime, _process), do: {:ok, lifetime}

  def measure(%{max_memory: max} = lifetime, process) do
    case OSProcess.memory(process) do
      bytes when is_integer(bytes) and bytes > 2 * max ->
        {:dead, "it uses #{bytes} bytes of memory, more than twice :max_memory, #{max} bytes"}

      bytes when is_integer(bytes) and bytes > lifetime.memory ->
        reached(lifetime, :max_memory, "it uses #{bytes} bytes of memory")

      _less_or_unknown ->
        {:ok, lifetime}
    end
  end

  defp reached(%{reached: true} = lifetime, _limit, _why), do: {:ok, lifetime}

  defp reached(lifetime, limit, why),
    do: {:reached, limit, "#{why} (#{inspect(limit)})", %{lifetime | reached: true}}
end
