#!/usr/bin/env bash
# Trains one stage on a Cloud TPU slice, or on several, through a queued resource.
#
#   launch/cloud/tpu_vm.sh --name echox-8b --type v5litepod-16 --zone us-west4-a --project PROJECT \
#     --bucket BUCKET --config configs/echox_8b.py:s2t [--slices 2] [--spot] [--dry-run] [-- --config.train.steps=1000 ...]
#
# Every worker mounts the bucket with gcsfuse at /mnt/echox, installs this source tree and runs the same command;
# jax.distributed finds the other workers by itself. Run it again to continue after a pre-emption: finished steps are kept in
# the bucket. --dry-run prints the commands and runs none. Needs: gcloud, logged in, with the TPU API enabled.
set -euo pipefail

name='' type='' zone='' project='' bucket='' config='' slices=1 spot='' dry='' runtime='' extra=()
usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
fail() { echo "error: $1" >&2; exit 2; }
while [[ $# -gt 0 ]]; do
  case "$1" in
    --name) name=$2; shift 2 ;;
    --type) type=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --project) project=$2; shift 2 ;;
    --bucket) bucket=$2; shift 2 ;;
    --config) config=$2; shift 2 ;;
    --slices) slices=$2; shift 2 ;;
    --runtime) runtime=$2; shift 2 ;;
    --spot) spot=--spot; shift ;;
    --dry-run) dry=1; shift ;;
    --) shift; extra=("$@"); break ;;
    -h|--help) usage; exit 0 ;;
    *) fail "$1 is not an option: see $0 --help." ;;
  esac
done
for needed in name type zone project bucket config; do
  [[ -n ${!needed} ]] || fail "--$needed is missing: see $0 --help."
done
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices is $slices: give the number of slices."
[[ -n $dry ]] || command -v gcloud >/dev/null || fail 'gcloud is not installed: install the Google Cloud CLI and log in.'
if [[ -z $runtime ]]; then
  case "$type" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "no runtime version is known for $type: name one with --runtime." ;;
  esac
fi

run() { local line; printf -v line ' %q' "$@"; echo "+$line"; [[ -n $dry ]] || "$@"; }  # a line in one write: slices start side by side
root=$(cd "$(dirname "$0")/../.." && pwd)
where=(--project "$project" --zone "$zone")
nodes=(--node-id "$name"); [[ $slices == 1 ]] || nodes=(--node-count "$slices" --node-prefix "$name")
train=(python3.11 -m launch.train "--config=$config" --workdir=/mnt/echox/work)
[[ $slices == 1 ]] || train+=("--config.mesh.dcn_data=$slices")
train+=("${extra[@]}")

describe=(gcloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)')
state=$([[ -n $dry ]] || "${describe[@]}" 2>/dev/null || true)
[[ -n $state ]] || run gcloud compute tpus queued-resources create "$name" "${where[@]}" \
  "${nodes[@]}" --accelerator-type "$type" --runtime-version "$runtime" $spot
until [[ -n $dry || $state == ACTIVE ]]; do
  [[ $state != FAILED && $state != SUSPENDED ]] || fail "the queued resource $name is $state: delete it and start again."
  echo "$(date +%T) $name is ${state:-waiting} ..."; sleep 30; state=$("${describe[@]}")
done

printf -v command '%q ' "${train[@]}"
setup="sudo apt-get update -qq; command -v gcsfuse >/dev/null || sudo apt-get install -y -qq gcsfuse; \
sudo mkdir -p /mnt/echox; mountpoint -q /mnt/echox || sudo gcsfuse --implicit-dirs -o allow_other --uid \$(id -u) $bucket /mnt/echox; \
mkdir -p echox && tar -xzf echox.tar.gz -C echox && cd echox && python3.11 -m pip install -q -c constraints.txt -e '.[train,tpu]'"
archive=$(mktemp -d)/echox.tar.gz
trap 'rm -rf "$(dirname "$archive")"' EXIT
run git -C "$root" archive --format=tar.gz -o "$archive" HEAD
for ((slice = 0; slice < slices; slice++)); do
  node=$name; [[ $slices == 1 ]] || node=$name-$slice
  run gcloud compute tpus tpu-vm scp "$archive" "$node:echox.tar.gz" "${where[@]}" --worker=all
  run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command "$setup"
done
pids=()
for ((slice = 0; slice < slices; slice++)); do  # all slices start together: they wait for one another
  node=$name; [[ $slices == 1 ]] || node=$name-$slice
  run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command "cd echox && $command" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
