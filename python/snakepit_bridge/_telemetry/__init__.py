"""What commands report: their progress, events for telemetry, and spans under the caller's."""
