defmodule Mix.Snakepit.Check do
  @moduledoc false
  # The result of one check of `mix snakepit.doctor`, and how it is printed.

  @enforce_keys [:name, :status, :text]
  defstruct [:name, :status, :text, :fix]

  @type t :: %__MODULE__{
          name: String.t(),
          status: :ok | :failed | :skipped,
          text: String.t(),
          fix: String.t() | nil
        }

  @doc "A check that passed, with what it found."
  def ok(name, text), do: %__MODULE__{name: name, status: :ok, text: text}

  @doc "A check that failed: what is wrong, and the command or change that fixes it."
  def failed(name, text, fix), do: %__MODULE__{name: name, status: :failed, text: text, fix: fix}

  @doc "A check that could not be made, and why."
  def skipped(name, why), do: %__MODULE__{name: name, status: :skipped, text: why}

  @doc "One line, or more if the text has more."
  @spec format(t) :: String.t()
  def format(check) do
    [first | rest] = check.text |> String.trim_trailing() |> String.split("\n")
    fix = if check.fix, do: ["fix: " <> check.fix], else: []

    first =
      String.pad_trailing(label(check.status), 6) <> String.pad_trailing(check.name, 18) <> first

    Enum.join([first | Enum.map(rest ++ fix, &String.trim_trailing("        " <> &1))], "\n")
  end

  defp label(:ok), do: "ok"
  defp label(:failed), do: "FAIL"
  defp label(:skipped), do: "-"
end
