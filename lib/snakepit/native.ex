defmodule Snakepit.Native do
  @moduledoc false
  # The NIFs of native/snakepit_nif, and nothing else.
  @on_load :load
  # If the compiler loaded this module, it would look for the library before it is built.
  @compile {:autoload, false}

  # A BEAM loads the library once: its pools and calls live in it. If the module is loaded again, its first
  # code keeps running with the library; if somebody has deleted that code, as a compiler does, the library
  # is lost.
  def load do
    cond do
      not :persistent_term.get({__MODULE__, :loaded}, false) ->
        load_library()

      :erlang.module_loaded(__MODULE__) ->
        {:error, "the native library cannot be reloaded; restart the BEAM to use a new one"}

      true ->
        put_error("its module was loaded a second time; restart the BEAM")
    end
  end

  # A library that does not load must not keep the application from starting: calls return the reason.
  defp load_library do
    path = :filename.join(:code.priv_dir(:snakepit), "native/snakepit_nif")

    with {:ok, threads} <- Snakepit.Config.RuntimeThreads.get(),
         :ok <- :erlang.load_nif(path, threads) do
      :persistent_term.put({__MODULE__, :loaded}, true)
      put_error(nil)
    else
      {:error, %Snakepit.Error{message: message}} ->
        put_error(message)

      {:error, {_kind, message}} ->
        put_error(
          "#{message}; run `mix deps.compile snakepit --force` (in Snakepit itself, `mix compile`) to install it; " <>
            "if it needs a newer libc than this system has, set SNAKEPIT_BUILD=1 to build it here"
        )
    end
  end

  defp put_error(error), do: :persistent_term.put({__MODULE__, :load_error}, error)

  @doc "The reason why the library could not be loaded, or nil."
  def load_error, do: :persistent_term.get({__MODULE__, :load_error})

  def pool_new(_limits, _told), do: missing()
  def pool_close(_pool), do: missing()
  def pool_fell_back(_pool, _why), do: missing()
  def pool_set_failed(_pool, _failed, _why, _no_grpc), do: missing()
  def pool_had_answered(_pool, _key), do: missing()
  def pool_add(_pool, _channel, _worker), do: missing()
  def pool_pause(_pool, _key), do: missing()
  def pool_resume(_pool, _key, _channel, _worker), do: missing()
  def pool_drain(_pool, _key), do: missing()
  def pool_drain_sessions(_pool, _key), do: missing()
  def pool_report_at(_pool, _key, _calls), do: missing()
  def pool_set_size(_pool, _size), do: missing()
  def pool_remove(_pool, _key), do: missing()
  def pool_end_session(_pool, _session_id), do: missing()
  def pool_end_server_session(_pool, _session_id), do: missing()
  def pool_sessions(_pool), do: missing()
  def pool_batch_size(_pool, _command), do: missing()
  def pool_expire_sessions(_pool), do: missing()
  def pool_snapshot(_pool), do: missing()
  def pool_count(_pool, _ended), do: missing()
  def pool_count_ask(_pool, _command, _failed, _time), do: missing()
  def pool_numbers(_pool), do: missing()

  def runtime_tasks, do: missing()
  def start_journal, do: missing()
  def faults(_limit), do: missing()
  def keepalive(_interval, _timeout), do: missing()
  def connect(_ref, _options), do: missing()
  def close(_channel), do: missing()
  def read_calls(_channel), do: missing()
  def feed_calls(_calls, _data), do: missing()
  def flush_calls(_calls), do: missing()
  def stop_feeding(_calls), do: missing()
  def health(_ref, _channel, _worker_id, _timeout), do: missing()
  def get_info(_ref, _channel, _timeout, _commands), do: missing()

  def call(_target, _ref, _args, _spec), do: missing()
  def call_large(_target, _ref, _args, _spec), do: missing()
  def stream(_target, _ref, _args, _spec, _stream), do: missing()
  def stream_large(_target, _ref, _args, _spec, _stream), do: missing()
  def acquire(_pool, _ref, _spec, _again), do: missing()
  def give_back(_lease), do: missing()
  def release(_lease), do: missing()
  def holding(_lease, _call_id), do: missing()
  def new_call, do: missing()
  def ask_more(_handle, _chunks), do: missing()

  def converse(_target, _ref, _args, _spec, _two_way), do: missing()
  def converse_large(_target, _ref, _args, _spec, _two_way), do: missing()
  def answer(_conversation, _ask_id, _value), do: missing()
  def answer_large(_conversation, _ask_id, _value), do: missing()
  def withdrawals_handled(_conversation, _count), do: missing()
  def answer_failed(_conversation, _ask_id, _failure), do: missing()
  def push(_handle, _input_id, _item), do: missing()
  def push_large(_handle, _input_id, _item), do: missing()
  def await_input(_handle, _input_id, _ref, _tied), do: missing()
  def stop_waiting(_handle, _ref), do: missing()
  def end_input(_handle, _input_id, _failure), do: missing()
  def cancel(_handle), do: missing()

  def encode_args(_args), do: missing()
  def decode_result(_result), do: missing()
  def encode_extended(_value), do: missing()
  def decode_extended(_bytes), do: missing()

  def response_id(_message), do: missing()

  def output_open(_ref, _logger, _token, _path), do: missing()
  def output_take(_output), do: missing()
  def output_finish(_output), do: missing()
  def messages_open(_ref, _limit, _path), do: missing()
  def messages_handled(_messages), do: missing()
  def messages_opened(_messages), do: missing()
  def input_open(_ref, _path), do: missing()
  def input_opened(_input), do: missing()
  def input_write(_input, _message), do: missing()
  def input_write_large(_input, _message), do: missing()
  def input_finish(_input), do: missing()
  def process_started(_os_pid), do: missing()
  def process_memory(_os_pid, _started), do: missing()
  def set_exit_cause(_channel, _cause), do: missing()
  def signal_group(_os_pid, _started, _kill), do: missing()

  def runtime_dir_create(_path), do: missing()
  def runtime_dir_intact(_dir), do: missing()
  def runtime_dir_unlink(_dir, _name), do: missing()
  def runtime_dir_remove(_dir), do: missing()
  def runtime_dir_sweep(_parent), do: missing()

  defp missing, do: :erlang.nif_error(:not_loaded)
end
