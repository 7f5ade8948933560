defmodule Snakepit.GRPC.Listener do
  @moduledoc false
  # Where a worker on this machine listens, and what its pool shares with it alone: all that the pool's
  # option `:transport` decides.

  alias Snakepit.Native
  alias Snakepit.Pool.RuntimeDir

  # It has secrets in it.
  @derive {Inspect, only: [:address]}
  defstruct [
    # What its `--listen` takes. It announces where it listens, after the token.
    :address,
    :token,
    # What calls have to have with them, where others could connect.
    :secret,
    # Where it notes which calls have started, and the name of that. It is read when the worker has died.
    :journal,
    :journal_path
  ]

  @type t :: %__MODULE__{}

  @doc "For a worker that is about to start."
  @spec new(map, pid) :: {:ok, t} | {:error, String.t()}
  def new(%{transport: :unix} = options, runtime_dir) do
    # Only its user can reach its socket.
    with {:ok, path} <- RuntimeDir.path(runtime_dir, options.startup_timeout),
         do: {:ok, with_journal(%__MODULE__{address: "unix:#{path}.sock", token: random()})}
  end

  def new(%{transport: :tcp, base_port: first} = options, _runtime_dir) do
    last = min(first + options.port_range - 1, 65_535)
    ports = if first == 0, do: "0", else: "#{first}-#{last}"
    {:ok, %__MODULE__{address: "tcp:127.0.0.1:#{ports}", token: random(), secret: random()}}
  end

  # Without one, calls of a worker that died may have started.
  defp with_journal(listener) do
    case Native.start_journal() do
      {journal, path} -> %{listener | journal: journal, journal_path: path}
      nil -> listener
    end
  end

  defp random, do: Base.url_encode64(:crypto.strong_rand_bytes(16), padding: false)

  @doc "The environment of the worker's process."
  @spec env(t) :: [{String.t(), String.t()}]
  def env(listener) do
    for {name, value} when value != nil <- [
          {"SNAKEPIT_LISTEN", listener.address},
          {"SNAKEPIT_READY_TOKEN", listener.token},
          {"SNAKEPIT_SECRET", listener.secret},
          {"SNAKEPIT_START_JOURNAL", listener.journal_path}
        ],
        do: {name, value}
  end

  @doc "What it takes to connect to the worker beside its address."
  @spec connect_options(t) :: keyword
  def connect_options(listener), do: [secret: listener.secret, journal: listener.journal]

  @doc "Whether a worker can listen beside as many as the pool has, or why not."
  @spec check_replacement(map) :: :ok | {:error, String.t()}
  def check_replacement(%{transport: :tcp, base_port: first, port_range: range, size: size})
      when first != 0 and range <= size do
    {:error,
     "the replacement of a worker starts beside it and needs one port more than there are " <>
       "workers: with :size #{size}, :port_range must be #{size + 1} or more, got #{range}"}
  end

  def check_replacement(_options), do: :ok
end
