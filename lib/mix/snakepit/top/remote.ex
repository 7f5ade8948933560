defmodule Mix.Snakepit.Top.Remote do
  @moduledoc false
  # The node that `mix snakepit.top` observes: this one, or another one over Erlang's distribution.

  @doc "Connects to a node, with a cookie or with the user's own. The connection is hidden from the other nodes."
  @spec connect!(String.t(), String.t() | nil) :: node
  def connect!(name, cookie) do
    node = node!(name)
    unless Node.alive?(), do: start!(name)
    if cookie, do: Node.set_cookie(node, String.to_atom(cookie))

    unless Node.connect(node) == true do
      Mix.raise(
        "cannot connect to #{name}: check that it runs with this name (in a release RELEASE_NODE), that the cookie is " <>
          "the same (--cookie), and that its host and its port of epmd, 4369, can be reached"
      )
    end

    node
  end

  defp node!(name) do
    if name =~ ~r/\A[^@]+@[^@]+\z/,
      do: String.to_atom(name),
      else: Mix.raise("--node expects name@host, got: #{name}")
  end

  # It does not listen, so it needs no epmd here. Its name counts only for the other node, and its host need
  # not be this machine's.
  defp start!(name) do
    [_name, host] = String.split(name, "@")
    domain = if host =~ ".", do: :longnames, else: :shortnames
    random = Base.encode16(:crypto.strong_rand_bytes(4), case: :lower)
    options = %{name_domain: domain, hidden: true, dist_listen: false}

    with {:error, reason} <- :net_kernel.start(:"snakepit_top_#{random}@#{host}", options),
         do: Mix.raise("Erlang's distribution does not start: #{inspect(reason)}")
  end

  @doc "Starts the collector on a node, for the calling process."
  @spec collect!(node) :: pid
  def collect!(node) do
    {:ok, collector} = call!(node, Snakepit.Top.Collector, :start, [self()])
    collector
  end

  @doc "A sample of a node."
  @spec sample!(node, pid) :: map
  def sample!(node, collector), do: call!(node, Snakepit.Top.Sample, :take, [collector])

  defp call!(node, module, function, args) do
    :erpc.call(node, module, function, args)
  rescue
    error in ErlangError ->
      case error.original do
        {:exception, :undef, _stack} ->
          Mix.raise("#{node} does not run Snakepit, or a version without mix snakepit.top")

        {:erpc, :noconnection} ->
          Mix.raise("the connection to #{node} was lost")

        other ->
          Mix.raise("#{node} cannot be observed: #{inspect(other)}")
      end
  end
end
