#!/usr/bin/env bash
# test.sh: every test of the tree. Goes on after a step that failed, says at the
# end what it ran and how each step ended, and fails if one did.
#
# The tests on a Kubernetes cluster are part of it where the machine can run one (root
# on Debian). WEIR_TEST_CLUSTER=0 leaves them out; WEIR_TEST_CLUSTER=1 fails where the
# machine cannot. Where they do not run, the end says so; with CI=true that is a failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

log=$(mktemp)
trap 'rm -f "$log"' EXIT
summary=()
failed=0

# step NAME COMMAND...: run, show and time a command.
step() {
  local name=$1 began=$SECONDS result=ok count
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee "$log" || { result=FAILED && failed=1; }
  count=$(grep -cE '^ok ' "$log" || true)
  summary+=("$(printf '%-28s %-7s %5d s%s' "$name" "$result" "$((SECONDS - began))" \
    "$([[ $count -gt 0 ]] && echo "  $count packages passed")")")
}

packages=$(go list ./... | grep -Ev '/e2e(/|$)') || exit 1
mapfile -t units <<<"$packages"

# -count=1: the go command cannot know what the binaries under test were built of.
step "build" make build
step "go vet" go vet ./...
step "unit tests" go test -timeout 10m "${units[@]}"
step "unit tests, race detector" go test -race -timeout 20m "${units[@]}"
step "end to end" go test -count=1 -timeout 15m ./e2e/...
step "end to end, race detector" go test -race -count=1 -timeout 15m ./e2e/...
if command -v npm >/dev/null; then
  step "dashboard unit tests" hack/dashboard.sh test
else
  summary+=("$(printf '%-28s %s' "dashboard unit tests" "not run: npm is missing")")
fi

# The first time it builds Kubernetes, which takes 10 minutes and more.
missed=
case ${WEIR_TEST_CLUSTER:-} in
  0) missed="WEIR_TEST_CLUSTER=0 says so" ;;
  1) ;;
  *) missed=$(hack/test-cluster.sh --can) || missed=${missed:-"hack/test-cluster.sh --can fails"} ;;
esac
if [[ -z $missed ]]; then
  step "on a Kubernetes cluster" hack/test-cluster.sh
else
  result="NOT RUN"
  [[ ${CI:-} == true ]] && result=FAILED && failed=1
  summary+=("$(printf '%-28s %s: %s' "on a Kubernetes cluster" "$result" "$missed")")
fi

printf '\nWhat ran:\n'
printf '  %s\n' "${summary[@]}"
if [[ -n $missed ]]; then
  printf '\n*** The tests on a Kubernetes cluster DID NOT RUN: %s.\n' "$missed"
  printf '*** Whether Weir works in Kubernetes is not known of this tree. sudo make test-cluster runs them.\n\n'
fi
if [[ $failed -ne 0 ]]; then
  printf 'FAILED\n'
  exit 1
fi
[[ -z $missed ]] && printf 'all passed\n' || printf 'all that ran passed\n'
