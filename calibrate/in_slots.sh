#!/usr/bin/env bash
# Everything that a GPU is needed for, in stages of ten minutes, for a machine that is free for minutes at a time.
#
#   calibrate/in_slots.sh STAGE [OUT]
#
#   check     every kernel in bfloat16 against float64
#   kernels   python -m calibrate run: measures what is not measured yet, fits, reports
#   engine    python -m calibrate engine serve: every run that is not recorded yet
#   rehearse  all of it without a GPU, as far as that goes (times mean nothing)
#
# A stage ends within ten minutes (SLOT_SECONDS) and goes on where it ended when it is run again, from the rows
# under calibrate/data. They are packed into OUT/calibration.tar.gz at the end, also when the stage fails; on the
# next machine unpack them first: tar -xzf calibration.tar.gz. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:?usage: calibrate/in_slots.sh check|kernels|engine|rehearse [OUT]}
out=${2:-out}
slot=${SLOT_SECONDS:-540}
python=${PYTHON:-python3}
mkdir -p "$out" calibrate/data

pack() {
    tar -czf "$out/calibration.tar.gz.new" calibrate/data
    mv "$out/calibration.tar.gz.new" "$out/calibration.tar.gz"
    echo "packed: $out/calibration.tar.gz"
}
trap pack EXIT

case $stage in
    check) timeout "$slot" "$python" -m pytest -q tests/kernels/on_gpu.py ;;
    kernels) "$python" -m calibrate run --slot-seconds "$slot" ;;
    engine) "$python" -m calibrate engine serve --slot-seconds "$slot" ;;
    rehearse)
        "$python" -m calibrate measure --dry-run
        "$python" -m calibrate engine serve --dry-run --data "$out/engine_dry_run"
        ;;
    *)
        echo "no such stage: $stage; allowed: check, kernels, engine, rehearse" >&2
        exit 2
        ;;
esac
