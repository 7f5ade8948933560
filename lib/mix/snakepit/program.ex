defmodule Mix.Snakepit.Program do
  @moduledoc false
  # Runs a program with a limit on its time, which `System.cmd/3` does not have.

  alias Snakepit.Error.Cause

  @doc """
  Runs a program and returns its output, both streams, and its exit status, or `:timeout` after it
  was killed. Options: `:cd`, `:env`, a map in which nil unsets a variable, and `:timeout` in ms.
  """
  @spec run(Path.t(), [String.t()], keyword) :: {String.t(), non_neg_integer | :timeout}
  def run(executable, args, options) do
    {executable, args, env} = with_env(executable, args, options[:env] || %{})
    settings = [args: args, env: env, cd: Keyword.fetch!(options, :cd)]

    case open(executable, settings) do
      {:ok, port} -> collect(port, [], now() + Keyword.fetch!(options, :timeout))
      {:error, message} -> {message, 126}
    end
  end

  defp open(executable, settings) do
    # The port would write that to the standard error of the BEAM.
    if File.dir?(settings[:cd]) do
      how = [:binary, :exit_status, :stderr_to_stdout, :hide]
      {:ok, Port.open({:spawn_executable, executable}, how ++ settings)}
    else
      {:error, "the directory #{settings[:cd]} does not exist"}
    end
  rescue
    error in [ErlangError, SystemLimitError] ->
      {:error, "#{executable}: #{Cause.not_started(error)}"}
  end

  defp collect(port, output, deadline) do
    receive do
      {^port, {:data, data}} -> collect(port, [output, data], deadline)
      {^port, {:exit_status, status}} -> {text(output), status}
    after
      max(deadline - now(), 0) ->
        kill(port)
        {text(output), :timeout}
    end
  end

  # With what it has started: each program of a port leads a process group. The `kill` of the shell
  # is always there; the program of that name is not, in slim images.
  defp kill(port) do
    with {:os_pid, pid} <- Port.info(port, :os_pid), do: :os.cmd(~c"kill -KILL -#{pid}")
    Port.close(port)
  rescue
    # It has ended meanwhile.
    ArgumentError -> :ok
  end

  # What a program prints need not be text.
  defp text(output) do
    output |> IO.iodata_to_binary() |> String.chunk(:valid) |> Enum.map_join(&valid/1)
  end

  defp valid(chunk), do: if(String.valid?(chunk), do: chunk, else: "\uFFFD")

  # The variables of a port are characters, in the encoding of file names. If that is UTF-8, other
  # bytes pass a shell that gets them as escapes; it could not export another kind of name.
  defp with_env(executable, args, env) do
    {text, bytes} = Enum.split_with(env, fn {name, value} -> text?(name) and text?(value) end)
    bytes = for {name, value} <- bytes, name =~ ~r/\A[A-Za-z_]\w*\z/, do: {name, escape(value)}

    env =
      for {name, value} <- text ++ bytes, do: {charlist(name), value != nil and charlist(value)}

    if bytes == [] do
      {executable, args, env}
    else
      # The shell removes the newlines at the end of an output: it gets one more character.
      script =
        for {name, _value} <- bytes,
            do: ~s[#{name}=$(printf %b_ "$#{name}"); export #{name}="${#{name}%_}"; ]

      {"/bin/sh", ["-c", "#{script}exec \"$0\" \"$@\"", executable | args], env}
    end
  end

  defp escape(value), do: for(<<byte <- value>>, into: "", do: "\\0" <> octal(byte))
  defp octal(byte), do: byte |> Integer.to_string(8) |> String.pad_leading(3, "0")

  defp text?(text), do: latin1?() or text == nil or String.valid?(text)
  defp charlist(text), do: if(latin1?(), do: :binary.bin_to_list(text), else: to_charlist(text))
  defp latin1?, do: :file.native_name_encoding() == :latin1

  defp now, do: System.monotonic_time(:millisecond)
end
