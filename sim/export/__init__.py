"""Results as files: records as CSV or Parquet, summary.json, tables, vLLM's benchmark views."""
