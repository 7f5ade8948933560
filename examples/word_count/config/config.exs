import Config

config :snakepit,
  adapter_args: [class: "word_count:WordCount", paths: ["python"]],
  pool_config: %{pool_size: 2}
