defmodule Snakepit.Pool.Group do
  @moduledoc false
  # The pools of the connected nodes by name, as groups of `:pg` whose members are the pools' managers. A pool is in two
  # groups: in one while it runs, and in another one while it has a ready worker.
  #
  # The names of the groups include the version of `Snakepit.Relay`'s messages: nodes that do not understand each
  # other are not chosen.

  alias Snakepit.Error

  @version 1
  # How long to wait for the scope to be started again, in ms.
  @return 1_000

  defstruct [:scope, ready: false]

  @type t :: %__MODULE__{scope: reference, ready: boolean}

  @doc "The version of the messages between nodes."
  def version, do: @version

  @doc false
  def child_spec(_options), do: %{id: __MODULE__, start: {:pg, :start_link, [__MODULE__]}}

  @doc """
  Announces the pool of the calling process, its manager, and whether a worker is ready. Takes what the last call has
  returned, at first nil. If the groups are lost, the process gets `{:DOWN, scope, :process, _object, _reason}` and has to
  announce the pool anew: see `retry/1`.
  """
  @spec announce(t | nil, atom, boolean) :: t
  def announce(nil, name, ready) do
    scope = Process.monitor(__MODULE__)
    change(:join, {@version, name})
    announce(%__MODULE__{scope: scope}, name, ready)
  end

  def announce(%{ready: ready} = group, _name, ready), do: group

  def announce(group, name, ready) do
    change(if(ready, do: :join, else: :leave), {@version, name, :ready})
    %{group | ready: ready}
  end

  # Without the scope the monitor says so.
  defp change(how, group) do
    apply(:pg, how, [__MODULE__, group, self()])
    :ok
  catch
    :exit, _gone -> :ok
  end

  @doc "Sends `message` to the calling process once the scope may be there again."
  @spec retry(term) :: :ok
  def retry(message) do
    Process.send_after(self(), message, @return)
    :ok
  end

  @doc "The nodes that run a pool of this name, this one first."
  @spec nodes(atom) :: [node]
  def nodes(name) do
    nodes = for pid <- :pg.get_members(__MODULE__, {@version, name}), uniq: true, do: node(pid)
    Enum.sort_by(nodes, &{&1 != node(), &1})
  end

  @doc """
  Chooses a node with the pool: this one if it has it, among those that have a ready worker, or among all if none has. The
  calls of a session go to the same node as long as the nodes are the same.
  """
  @spec choose(atom, String.t() | nil) :: {:ok, node} | {:error, Error.t()}
  def choose(name, session_id) do
    with [] <- members({@version, name, :ready}),
         [] <- members({@version, name}) do
      message =
        "no pool #{inspect(name)} runs on this node or on a node that it is connected to " <>
          "(Node.list/0) and that has the same version of Snakepit"

      {:error, %Error{reason: :pool_stopped, pool: name, message: message}}
    else
      managers -> {:ok, node(one_of(managers, session_id))}
    end
  end

  defp members(group) do
    with [] <- :pg.get_local_members(__MODULE__, group),
         do: :pg.get_members(__MODULE__, group)
  end

  defp one_of([manager], _session_id), do: manager

  # The generator of `:rand` would change the state that the calling process may have seeded.
  defp one_of(managers, nil),
    do: Enum.at(managers, :erlang.phash2(make_ref(), length(managers)))

  defp one_of(managers, session_id),
    do: Enum.max_by(managers, &:erlang.phash2({session_id, node(&1)}))
end
