#!/usr/bin/env bash
# The whole pipeline on the embedded simulation, on a laptop: posterior gas and dark-matter maps beside the truth.
#   bash jobs/quickstart.sh [section.key=value ...]       run again after an interruption, it goes on
cd "$(dirname "$0")/.." || exit 1
. jobs/env.sh || exit $?
config=configs/quickstart.yaml
run=$(python -m hpcdiff.config get run.dir $config "$@") || exit 2
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824 # glibc keeps freed maps: 5 % faster training on a CPU
start=$SECONDS
for stage in simulate project train sample evaluate; do
  python -m hpcdiff.$stage $config "$@" || exit $?
  echo "== $stage done, $((SECONDS - start)) s since the start"
done
# The control: the same model on inputs of other halos; whatever skill is left there would be no skill.
control=(run.dir=$run/shuffled run.maps=$run/maps.h5 run.model=$run/model sample.shuffle_inputs=true sample.samples=4)
for stage in sample evaluate; do
  python -m hpcdiff.$stage $config "$@" "${control[@]}" || exit $?
done
python -m hpcdiff.evaluate.summary $run $run/shuffled
echo "== $((SECONDS - start)) s beside the set-up"
echo "report:      $(realpath "$run/report.html")  (the control: $(realpath "$run/shuffled/report.html"))"
echo "tensorboard: . .venv/bin/activate && tensorboard --logdir $run/tensorboard"
