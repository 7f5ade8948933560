defmodule Snakepit.Pool.Folder do
  @moduledoc false
  # Where a pool's workers have their sockets and pipes. A socket in it is listened on for as long as
  # the pool lives: that nobody does so tells a folder whose pool was killed, with its whole BEAM, and
  # whoever makes the next folder takes it away.

  @owner "owner"
  # A socket's path has at most 107 bytes.
  @longest_parent 70

  @doc "Makes a folder that lives as long as the calling process, or longer if that is killed."
  @spec make!(Path.t()) :: Path.t()
  def make!(parent \\ System.tmp_dir!()) do
    parent = if byte_size(parent) < @longest_parent, do: parent, else: "/tmp"
    sweep(parent)
    random = Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
    folder = Path.join(parent, "snakepit-" <> random)
    File.mkdir!(folder)
    File.chmod!(folder, 0o700)
    own(folder)
    folder
  end

  # Under another name until it is listened on. Where no socket is allowed the folder may stay.
  defp own(folder) do
    new = Path.join(folder, "new")

    with {:ok, _socket} <- :gen_tcp.listen(0, ifaddr: {:local, new}, active: false),
         do: File.rename!(new, Path.join(folder, @owner))
  end

  defp sweep(parent) do
    for owner <- Path.wildcard(Path.join(parent, "snakepit-*/#{@owner}")), left?(owner) do
      File.rm_rf(Path.dirname(owner))
    end
  end

  defp left?(owner) do
    connected = :gen_tcp.connect({:local, owner}, 0, [:local, active: false], 1_000)
    with {:ok, socket} <- connected, do: :gen_tcp.close(socket)
    connected == {:error, :econnrefused}
  end
end
