defmodule Snakepit.Config.Type do
  @moduledoc false
  # The types of options: which values each has, and how a message describes it.

  alias Snakepit.Config.{Eject, Endpoints, Tls, Token}

  # The limit of Erlang's timers, in ms.
  @max 4_294_967_295
  # The limit of grpcio.
  @max_bytes 2_147_483_647
  # For times that are added up before a timer is set.
  @max_millis 1_000_000_000
  @max_threads 1024
  @session_id_bytes 1024
  # gRPC servers refuse more than 8 KiB, including what HTTP and gRPC add.
  @metadata_bytes 4096
  @reserved ~w(connection content-length content-type host keep-alive proxy-connection te
               transfer-encoding upgrade user-agent x-request-id x-snakepit-secret)

  @type t :: atom | {:positive | :count, integer} | {:one_of, [atom]}

  @doc "Describes a type in messages."
  @spec expected(t) :: String.t()
  # No type includes references.
  def expected(type), do: check(type, make_ref())

  @doc "Returns true if the value has the type, otherwise a description of the type."
  @spec check(t, term) :: true | String.t()
  def check({:positive, max}, value),
    do: (is_integer(value) and value in 1..max) || "an integer above 0, at most #{max}"

  def check({:count, max}, value),
    do: (is_integer(value) and value in 0..max) || "an integer of 0 or more, at most #{max}"

  def check({:one_of, values}, value), do: value in values || any_of(values)

  def check(:name, value), do: name?(value) || "an atom"

  def check(:pool, value),
    do:
      name?(value) or place?(value) ||
        "the name of a pool, an atom: the option :name that it was started with; or {name, node} for that of a node, or " <>
          "{name, :any} for that of any node"

  def check(:adapter, value),
    do: Snakepit.Adapter.adapter?(value) || "a module that implements Snakepit.Adapter"

  def check(:callback, value), do: is_function(value, 1) || "a function of one argument"

  def check(:on_progress, value),
    do: is_function(value, 1) or is_pid(value) || "a function of one argument, or a pid"

  def check(:tools, value) do
    tools?(value) ||
      "a keyword list or map of names, each once, and functions of one argument, a map: [lookup: &MyApp.Users.lookup/1]"
  end

  # 0 is for not waiting at all.
  def check(:patience, value) do
    value == :infinity or value in 0..@max ||
      "a number of milliseconds from 0 to #{@max}, or :infinity"
  end

  def check(:input, value),
    do: name?(value) or string?(value) || "the name of an argument, an atom or a string"

  def check(:keyword, value), do: Keyword.keyword?(value) || "a keyword list"

  def check(:section, value) do
    Keyword.keyword?(value) or (is_map(value) and not is_struct(value)) ||
      "a map or keyword list"
  end

  def check(:string, value), do: string?(value) || "a string"

  def check(:path, value),
    do: path?(value) || "a path, or {:my_app, path} for one within an application"

  def check(:timeout, value) do
    value == :infinity or value in 1..@max ||
      "a number of milliseconds above 0, at most #{@max}, or :infinity"
  end

  def check(:millis, value),
    do: millis?(value) || "a number of milliseconds above 0, at most #{@max_millis}"

  def check(:await, value) do
    is_boolean(value) or millis?(value) ||
      "true, false, or a number of milliseconds above 0, at most #{@max_millis}"
  end

  def check(:keepalive, value) do
    value == false or keepalive?(value) ||
      "false, or [interval: ms, timeout: ms] with numbers above 0, at most #{@max_millis}"
  end

  def check(:range, value) do
    range?(value) ||
      "a pair {first, longest} of milliseconds above 0, the first not above the longest, at most #{@max_millis}"
  end

  def check(:bytes, value),
    do: value in 1..@max_bytes || "a number of bytes above 0, at most #{@max_bytes}"

  def check(:count_limit, value),
    do: value == :infinity or value in 1..1_000_000_000_000 || "an integer above 0, or :infinity"

  def check(:memory_limit, value) do
    value == :infinity or check(:memory, value) == true ||
      "a number of bytes above 0, or :infinity"
  end

  # Of signed 64 bits.
  def check(:memory, value),
    do: value in 1..0x7FFF_FFFF_FFFF_FFFF || "a number of bytes above 0"

  def check(:nice, value), do: value in -20..19 || "an integer from -20 to 19"

  def check(:cores, value) do
    (list?(value) and
       Enum.all?(value, &(list?(&1) and Enum.all?(&1, fn core -> core in 0..1023 end)))) ||
      "a list with a list of cores for each slot, such as [[0, 1], [2, 3]]"
  end

  def check(:port, value), do: value in 0..65_535 || "a port, 0 to 65535"
  def check(:ports, value), do: value in 1..65_535 || "a number of ports, 1 to 65535"

  def check(:threads, value),
    do: value in 1..@max_threads || "a number of threads, 1 to #{@max_threads}"

  def check(:endpoints, value) do
    Endpoints.valid?(value) ||
      "a list of the different addresses of servers, each \"tcp:host:port\" or \"unix:/path\", {:dns, name, port}, " <>
        "{:srv, name}, or a module that implements Snakepit.Endpoints, or {module, argument}"
  end

  def check(:eject, value) do
    Eject.valid?(value) ||
      "a keyword list of :failures, an integer above 0 or :infinity, :for, a number of milliseconds above 0, and " <>
        ":at_most, a number from 0 to 1"
  end

  def check(:tls, value) do
    Tls.valid?(value) ||
      "true, or a keyword list of :cacertfile, :certfile with :keyfile, and :server_name, all strings"
  end

  def check(:token, value) do
    Token.valid?(value) ||
      "a string of visible ASCII, or {module, function, arguments} for a function that exists"
  end

  def check(:session_id, value) do
    (string?(value) and byte_size(value) in 1..@session_id_bytes and
       not String.contains?(value, <<0>>)) ||
      "a string of 1 to #{@session_id_bytes} bytes without NUL"
  end

  def check(:request_id, value) do
    (is_binary(value) and byte_size(value) in 1..256 and printable?(value)) ||
      "a string of 1 to 256 printable ASCII characters"
  end

  def check(:traceparent, value) do
    (is_binary(value) and value =~ ~r/\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\z/) ||
      "a W3C trace context, \"00-<32 hex digits>-<16 hex digits>-<2 hex digits>\""
  end

  def check(:metadata, value) do
    metadata?(value) ||
      "a map or list of names (a-z, 0-9, \"_\", \"-\", \".\"; not reserved by gRPC or HTTP) and values of " <>
        "printable ASCII, at most #{@metadata_bytes} bytes in all"
  end

  defp tools?(value) when is_map(value) and not is_struct(value),
    do: Enum.all?(value, &tool?/1) and differ?(value)

  defp tools?(value),
    do: Keyword.keyword?(value) and Enum.all?(value, &tool?/1) and differ?(value)

  # In a map a name may be both an atom and a string.
  defp differ?(tools) do
    names = for {name, _function} <- tools, do: to_string(name)
    names == Enum.uniq(names)
  end

  defp tool?({name, function}),
    do: (name?(name) or (string?(name) and name != "")) and is_function(function, 1)

  defp any_of(values) do
    {most, [last]} = values |> Enum.map(&inspect/1) |> Enum.split(-1)
    "#{Enum.join(most, ", ")} or #{last}"
  end

  defp name?(value), do: is_atom(value) and value not in [nil, true, false]

  defp place?({name, node}), do: name?(name) and name?(node)
  defp place?(_other), do: false

  defp string?(value), do: is_binary(value) and String.valid?(value)

  defp path?({app, path}), do: is_atom(app) and string?(path) and Path.type(path) == :relative
  defp path?(path), do: string?(path)

  defp millis?(value), do: value in 1..@max_millis

  defp keepalive?(value) do
    proper_list?(value) and
      Enum.all?(
        value,
        &(match?({key, _} when key in [:interval, :timeout], &1) and millis?(elem(&1, 1)))
      )
  end

  defp range?({first, longest}), do: millis?(first) and millis?(longest) and first <= longest
  defp range?(_other), do: false

  defp metadata?(value) do
    ((is_map(value) and not is_struct(value)) or proper_list?(value)) and
      Enum.all?(value, &(match?({_, _}, &1) and header?(elem(&1, 0)) and text?(elem(&1, 1)))) and
      value |> Enum.map(fn {k, v} -> byte_size(to_string(k)) + byte_size(v) end) |> Enum.sum() <=
        @metadata_bytes
  end

  defp list?(value), do: proper_list?(value) and value != []

  defp proper_list?(value), do: is_list(value) and not List.improper?(value)

  defp header?(name) when is_atom(name) and name not in [nil, true, false],
    do: header?(Atom.to_string(name))

  defp header?(name) do
    is_binary(name) and name =~ ~r/\A[a-z0-9_.-]+\z/ and name not in @reserved and
      not String.starts_with?(name, "grpc-") and not String.ends_with?(name, "-bin")
  end

  defp text?(value), do: is_binary(value) and printable?(value)

  defp printable?(value), do: for(<<c <- value>>, c not in 0x20..0x7E, do: c) == []
end
