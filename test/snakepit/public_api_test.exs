defmodule Snakepit.PublicAPITest do
  # Compares what users can name with the recorded list: documented modules, their functions and
  # callbacks, options and their defaults, keys of the configuration, errors, telemetry events.
  use ExUnit.Case, async: true

  alias Snakepit.GRPC.Client

  @recorded Path.expand("../support/public_api.txt", __DIR__)
  @update "UPDATE_PUBLIC_API"

  test "the public API is the recorded one" do
    if System.get_env(@update), do: File.write!(@recorded, Enum.map(public_api(), &[&1, "\n"]))

    recorded = @recorded |> File.read!() |> String.split("\n", trim: true)
    added = public_api() -- recorded
    removed = recorded -- public_api()

    assert added == [] and removed == [], """
    the public API is not what #{Path.relative_to_cwd(@recorded)} lists.

    #{Enum.map_join(removed, "\n", &"- #{&1}")}
    #{Enum.map_join(added, "\n", &"+ #{&1}")}

    What is removed or renamed breaks the code of users. If the change is intended, record it with

        #{@update}=1 mix test test/snakepit/public_api_test.exs

    and describe it in CHANGELOG.md.
    """
  end

  defp public_api do
    [modules(), pool_options(), call_options(), configuration(), errors(), events()]
    |> Enum.concat()
    |> Enum.sort()
  end

  defp modules do
    {:ok, modules} = :application.get_key(:snakepit, :modules)

    for module <- modules,
        public?(module),
        {_, _, _, _, %{"en" => _}, _, docs} <- [Code.fetch_docs(module)],
        line <- ["module #{inspect(module)}" | Enum.flat_map(docs, &members(module, &1))],
        do: line
  end

  # The modules of test/support are compiled with the application.
  defp public?(module) do
    source = module.module_info(:compile)[:source]
    source |> Path.relative_to_cwd() |> String.starts_with?("lib/")
  end

  defp members(_module, {_id, _line, _signature, :hidden, _metadata}), do: []
  # Functions that Elixir itself defines differ from release to release.
  defp members(_module, {{_, name, _}, _, _, _, _})
       when name in [:exception, :impl_for, :impl_for!],
       do: []

  defp members(module, {{kind, name, arity}, _line, _signature, _doc, metadata}) do
    optional = if optional?(module, kind, {name, arity}), do: " (optional)"

    for arity <- (arity - Map.get(metadata, :defaults, 0))..arity,
        do: "#{kind} #{inspect(module)}.#{name}/#{arity}#{optional}"
  end

  defp optional?(module, :callback, callback),
    do: callback in module.behaviour_info(:optional_callbacks)

  defp optional?(_module, _kind, _member), do: false

  # The rows of the table are generated from the schema.
  defp pool_options do
    for [_row, option, default] <-
          Regex.scan(~r/^\| `(:\w+)` \| `(.+?)` \|/m, doc(Snakepit.Pool)),
        do: "option of Snakepit.Pool #{option}, by default #{plain(default)}"
  end

  # Whether code is shown with 10_000 or 10000 depends on the version of Elixir.
  defp plain(code), do: String.replace(code, ~r/(?<=\d)_(?=\d)/, "")

  defp configuration do
    for [_row, key, option] <- Regex.scan(~r/^\| `(\w+)` \| `(:\w+)` \|$/m, doc(Snakepit.Pool)),
        do: "configuration #{key} is #{option}"
  end

  # The error for an unknown option lists the known options.
  defp call_options do
    wrong = [no_such: true]

    refusals = [
      {"Snakepit.execute", Snakepit.execute("ping", %{}, wrong)},
      {"Snakepit.map", raised(fn -> "ping" |> Snakepit.map([], wrong) |> Enum.to_list() end)},
      {"Snakepit.execute_stream", Snakepit.execute_stream("ping", %{}, & &1, wrong)},
      {"Snakepit.start_stream", Snakepit.start_stream("ping", %{}, wrong)},
      {"Snakepit.eval", Snakepit.eval("1", %{}, wrong)},
      {"Snakepit.end_session", Snakepit.end_session("s", wrong)},
      {"Snakepit.restart", Snakepit.restart(Snakepit.Pool, wrong)},
      {"Snakepit.GRPC.Client.connect", Client.connect("unix:/nowhere", wrong)},
      {"Snakepit.GRPC.Client.execute", Client.execute(make_ref(), "ping", %{}, wrong)},
      {"Snakepit.GRPC.Client.start_stream", Client.start_stream(make_ref(), "ping", %{}, wrong)},
      {"Snakepit.GRPC.Client.health", Client.health(make_ref(), wrong)},
      {"Snakepit.GRPC.Client.get_info", Client.get_info(make_ref(), wrong)}
    ]

    for {function, {:error, %Snakepit.Error{reason: :invalid_options, message: message}}} <-
          refusals,
        [option] <- Regex.scan(~r/:\w+/, message),
        option != ":no_such",
        do: "option of #{function} #{option}"
  end

  defp raised(fun), do: try(do: fun.(), rescue: (error in Snakepit.Error -> {:error, error}))

  defp errors do
    reasons =
      for [_row, reason] <- Regex.scan(~r/^\| `(:\w+)` \|/m, doc(Snakepit.Error)),
          do: "error #{reason}"

    fields = for field <- Map.keys(%Snakepit.Error{}), do: "field of Snakepit.Error #{field}"
    reasons ++ fields
  end

  defp events, do: for(event <- Snakepit.Telemetry.events(), do: "event #{inspect(event)}")

  defp doc(module) do
    {_, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(module)
    doc
  end
end
