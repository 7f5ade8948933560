[
  inputs: [
    "{mix,.formatter}.exs",
    "{bench,config,faults,lib,test}/**/*.{ex,exs}",
    "examples/*.exs",
    "examples/streaming/*.exs",
    "examples/*/{mix,.formatter}.exs",
    "examples/*/{config,lib,test}/**/*.{ex,exs}"
  ]
]
