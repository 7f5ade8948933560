defmodule Snakepit.GRPC.Listener do
  @moduledoc false
  # The address at which a worker on this machine listens, and the secrets that it shares with its pool:
  # everything that depends on the pool's option `:transport`.

  alias Snakepit.Native
  alias Snakepit.Pool.RuntimeDir

  # It has secrets in it.
  @derive {Inspect, only: [:address]}
  defstruct [
    # The worker gets it as `--listen`, and announces its real address after the token.
    :address,
    :token,
    # Each call has to carry it, if other users could connect.
    :secret,
    # The worker records there which calls have started. It is read when the worker has died.
    :journal,
    :journal_path
  ]

  @type t :: %__MODULE__{}

  @doc "Prepares a listener for a worker that is about to start."
  @spec new(map, pid) :: {:ok, t} | {:error, String.t()}
  def new(%{transport: :unix} = options, runtime_dir) do
    # Only the same user can connect to its socket.
    with {:ok, path} <- RuntimeDir.path(runtime_dir, options.startup_timeout),
         do: {:ok, with_journal(%__MODULE__{address: "unix:#{path}.sock", token: random()})}
  end

  def new(%{transport: :tcp, base_port: first} = options, _runtime_dir) do
    last = min(first + options.port_range - 1, 65_535)
    ports = if first == 0, do: "0", else: "#{first}-#{last}"
    {:ok, %__MODULE__{address: "tcp:127.0.0.1:#{ports}", token: random(), secret: random()}}
  end

  # Without a journal, any call of a worker that died counts as started.
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

  @doc "The options for a connection to the worker, besides its address."
  @spec connect_options(t) :: keyword
  def connect_options(listener),
    do: [secret: listener.secret, journal: listener.journal, takes_draining: false]

  @doc "Checks that one more worker than the pool's size can listen."
  @spec check_replacement(map) :: :ok | {:error, String.t()}
  def check_replacement(%{transport: :tcp, base_port: first, port_range: range, size: size})
      when first != 0 and range <= size do
    {:error,
     "the replacement of a worker starts beside it and needs one port more than there are " <>
       "workers: with :size #{size}, :port_range must be #{size + 1} or more, got #{range}"}
  end

  def check_replacement(_options), do: :ok
end
