defmodule WordCount do
  @moduledoc """
  Counts words with Python's `Counter`, in the workers that `config/config.exs` configures.

      iex> WordCount.count("To be, or not to be", top: 2)
      {:ok, %{words: 6, top: [{"to", 2}, {"be", 2}]}}
  """

  @type summary :: %{words: non_neg_integer(), top: [{String.t(), pos_integer()}]}

  @doc """
  Counts the words of a text and returns the `:top` most frequent ones (default 3).
  """
  @spec count(String.t(), keyword()) :: {:ok, summary()} | {:error, Snakepit.Error.t()}
  def count(text, opts \\ []) do
    args = %{text: text, top: Keyword.get(opts, :top, 3)}
    with {:ok, result} <- Snakepit.execute("count", args), do: {:ok, summary(result)}
  end

  @doc """
  Counts the words of a file of any size, and calls `fun` with the number of lines read and the
  result so far: after each `:every` lines (default 1000) and at the end.

  If `fun` returns `:halt`, counting stops.
  """
  @spec count_file(Path.t(), (non_neg_integer(), summary() -> any()), keyword()) ::
          :ok | {:error, Snakepit.Error.t()}
  def count_file(path, fun, opts \\ []) do
    args = %{
      path: Path.expand(path),
      top: Keyword.get(opts, :top, 3),
      every: Keyword.get(opts, :every, 1000)
    }

    Snakepit.execute_stream("count_file", args, &fun.(&1["lines"], summary(&1)))
  end

  defp summary(%{"words" => words, "top" => top}) do
    %{words: words, top: Enum.map(top, &List.to_tuple/1)}
  end
end
