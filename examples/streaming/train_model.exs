# mix run examples/streaming/train_model.exs
#
# Trains a neural network on handwritten digits. A callback receives the losses after each epoch, and
# stops the training when the loss on held-out images has stopped falling. ../README.md says what to
# install.

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Training,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "training:Training", paths: [Path.join(__DIR__, "python")]],
    python: Path.join(__DIR__, "../.venv/bin/python"),
    # For such a small model, further threads would only wait for each other.
    env: %{"OPENBLAS_NUM_THREADS" => "1"}
  )

:ok = Snakepit.Pool.await_ready(Training, 120_000)

defmodule Watch do
  @patience 3

  def epoch(%{"epoch" => epoch, "loss" => loss, "held_out_loss" => held_out}) do
    IO.puts("epoch #{epoch}: loss #{decimal(loss)}, on held-out images #{decimal(held_out)}")
    {_, best_epoch} = best = min({held_out, epoch}, Process.get(:best, {held_out, epoch}))
    Process.put(:best, best)
    if epoch - best_epoch >= @patience, do: :halt
  end

  def decimal(number), do: :erlang.float_to_binary(number, decimals: 4)
end

:ok =
  Snakepit.execute_stream("train_model", %{epochs: 100}, &Watch.epoch/1,
    pool: Training,
    timeout: :infinity
  )

# The callback has stopped the stream, not the worker: the model is still in memory.
{:ok, %{"result" => accuracy}} = Snakepit.execute("accuracy", %{}, pool: Training)
IO.puts("\n#{round(100 * accuracy)}% of the held-out images are read correctly")
