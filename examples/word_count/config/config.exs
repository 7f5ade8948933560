import Config

config :snakepit,
  pool: [
    size: 2,
    adapter_args: [class: "word_count:WordCount", paths: ["python"]]
  ]
