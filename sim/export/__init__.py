"""Results as files: records as CSV or Parquet, summary.json, tables, vLLM's benchmark views."""

from __future__ import annotations

from sim.export.atomic import write_whole as write_whole
from sim.export.frames import dataframe as dataframe
from sim.export.frames import preemptions_dataframe as preemptions_dataframe
from sim.export.frames import requests_dataframe as requests_dataframe
from sim.export.frames import segments_dataframe as segments_dataframe
from sim.export.frames import write_parquet as write_parquet
from sim.export.records import csv_text as csv_text
from sim.export.records import preemptions_csv as preemptions_csv
from sim.export.records import requests_csv as requests_csv
from sim.export.records import segments_csv as segments_csv
from sim.export.summary_json import SUMMARY_SCHEMA_VERSION as SUMMARY_SCHEMA_VERSION
from sim.export.summary_json import summary_json as summary_json
from sim.export.tables import write_table as write_table
from sim.export.vllm_bench import vllm_bench_block as vllm_bench_block
from sim.export.vllm_bench import vllm_bench_json as vllm_bench_json
