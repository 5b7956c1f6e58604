#!/usr/bin/env bash
# The whole pipeline on the embedded simulation, on a laptop: posterior gas and dark-matter maps beside the truth.
#   bash jobs/quickstart.sh [section.key=value ...]       run again after an interruption, it goes on
cd "$(dirname "$0")/.." || exit 1
. jobs/env.sh || exit $?
config=configs/quickstart.yaml
run=$(python -m hpcdiff.config get run.dir $config "$@") || exit 2
start=$SECONDS
for stage in simulate project train sample evaluate; do
  python -m hpcdiff.$stage $config "$@" || exit $?
  echo "== $stage done, $((SECONDS - start)) s since the start"
done
# The control: the same model on inputs of other halos; whatever skill is left there would be no skill.
control=(run.dir=$run/shuffled run.maps=$run/maps.h5 run.model=$run/model sample.shuffle_inputs=true)
for stage in sample evaluate; do
  python -m hpcdiff.$stage $config "$@" "${control[@]}" || exit $?
done
python -m hpcdiff.evaluate.summary $run $run/shuffled
echo "== $((SECONDS - start)) s beside the set-up"
echo "report:      $(realpath "$run/report.html")  (the control: $(realpath "$run/shuffled/report.html"))"
echo "tensorboard: . .venv/bin/activate && tensorboard --logdir $run/tensorboard"
