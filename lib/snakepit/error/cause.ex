defmodule Snakepit.Error.Cause do
  @moduledoc false
  # Describes why a process or a callback has crashed, for users. It omits exception messages that
  # show terms, because these may contain secrets.

  # The messages of all other exceptions show terms.
  @messages_of_their_authors [
    ArgumentError,
    ArithmeticError,
    File.Error,
    FunctionClauseError,
    RuntimeError,
    Snakepit.Error,
    System.EnvError,
    SystemLimitError,
    UndefinedFunctionError
  ]

  @doc "Text for users, for Python and for the native library, which take nothing else: other terms are shown."
  @spec text(term) :: String.t()
  def text(term), do: if(is_binary(term) and String.valid?(term), do: term, else: inspect(term))

  @doc "Describes something caught: `raised RuntimeError: the message (lib/my_app/adapter.ex:12)`."
  @spec caught(:error | :exit | :throw, term, Exception.stacktrace()) :: String.t()
  def caught(:error, reason, stacktrace) do
    exception = Exception.normalize(:error, reason, stacktrace)
    "raised #{name(exception)}#{message(exception)}#{place(stacktrace)}"
  end

  def caught(:exit, reason, _stacktrace) when is_atom(reason), do: "exited (#{inspect(reason)})"
  def caught(:exit, _reason, stacktrace), do: "exited#{place(stacktrace)}"
  def caught(:throw, _value, stacktrace), do: "threw a value#{place(stacktrace)}"

  @doc "Describes why a program cannot be started, as `Port.open/2` and `System.cmd/3` raise it."
  @spec not_started(Exception.t()) :: String.t()
  def not_started(%ErlangError{original: reason}),
    do: reason |> :file.format_error() |> to_string()

  # The limit of the BEAM's ports, for example.
  def not_started(error), do: Exception.message(error)

  @doc "Describes the end of a process by its exit reason."
  @spec exited(term) :: String.t()
  def exited(reason) when is_atom(reason), do: "its process has ended (#{inspect(reason)})"
  def exited({:shutdown, text}) when is_binary(text), do: text
  def exited({:shutdown, reason}) when is_atom(reason), do: exited(reason)
  def exited({{:nocatch, _value}, stacktrace}), do: crashed(:throw, nil, stacktrace)
  def exited({reason, stacktrace}), do: crashed(:error, reason, stacktrace)
  def exited(_reason), do: "its process has ended for a reason that is not shown"

  defp crashed(kind, reason, stacktrace) do
    if stacktrace?(stacktrace),
      do: "its process crashed: it #{caught(kind, reason, stacktrace)}",
      else: exited(nil)
  end

  defp stacktrace?(list), do: is_list(list) and Enum.all?(list, &(is_tuple(&1) and elem?(&1)))

  defp elem?(entry), do: tuple_size(entry) in 3..4 and is_list(elem(entry, tuple_size(entry) - 1))

  # Reasons of the VM itself, such as :emfile, are atoms.
  defp name(%ErlangError{original: original}) when is_atom(original), do: inspect(original)
  defp name(%module{}), do: inspect(module)

  defp message(%module{} = exception) when module in @messages_of_their_authors,
    do: ": " <> text(Exception.message(exception))

  defp message(_exception), do: ""

  # The place where it was raised, without arguments.
  defp place([entry | _]) do
    location = elem(entry, tuple_size(entry) - 1)

    case {location[:file], location[:line]} do
      {file, line} when file != nil and line != nil -> " (#{file}:#{line})"
      _ -> ""
    end
  end

  defp place(_stacktrace), do: ""
end
