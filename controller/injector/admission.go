package injector

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	admission "k8s.io/api/admission/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/deploy/inject"
)

// reviewBytes bounds one admission: etcd takes objects of 1.5 MiB.
const reviewBytes = 4 << 20

var getOptions = meta.GetOptions{}

// serve answers one AdmissionReview.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	request, err := readReview(http.MaxBytesReader(w, r.Body, reviewBytes))
	if err != nil {
		s.fail(w, http.StatusBadRequest, err)
		return
	}
	response, err := s.answer(r, request)
	if err != nil {
		s.fail(w, http.StatusServiceUnavailable, err)
		return
	}
	response.UID = request.UID
	text, err := json.Marshal(admission.AdmissionReview{
		TypeMeta: meta.TypeMeta{APIVersion: admission.SchemeGroupVersion.String(), Kind: "AdmissionReview"}, Response: response,
	})
	if err != nil {
		s.fail(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // the API server may be gone
}

// fail leaves it to the webhook's failure policy.
func (s *Server) fail(w http.ResponseWriter, code int, err error) {
	s.failed.Add(1)
	s.log.Warn("cannot decide about a pod", "error", err)
	http.Error(w, err.Error(), code)
}

func readReview(body io.Reader) (*admission.AdmissionRequest, error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("cannot read the admission: %w", err)
	}
	var review admission.AdmissionReview
	if err := json.Unmarshal(text, &review); err != nil {
		return nil, fmt.Errorf("cannot read the admission: %w", err)
	}
	if review.Request == nil || review.APIVersion != admission.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("it is no AdmissionReview of %s with a request", admission.SchemeGroupVersion)
	}
	return review.Request, nil
}

// answer decides. An error is for what cannot be decided now.
func (s *Server) answer(r *http.Request, request *admission.AdmissionRequest) (*admission.AdmissionResponse, error) {
	allowed := &admission.AdmissionResponse{Allowed: true}
	pods := meta.GroupVersionKind{Version: "v1", Kind: "Pod"}
	if request.Kind != pods || request.Operation != admission.Create || request.SubResource != "" || s.untouched(request.Namespace) {
		s.unasked.Add(1)
		return allowed, nil
	}
	var pod core.Pod
	if err := json.Unmarshal(request.Object.Raw, &pod); err != nil {
		return nil, fmt.Errorf("cannot read the pod: %w", err)
	}
	log := s.log.With("namespace", request.Namespace, "pod", podName(&pod))
	decision, err := s.decide(r.Context(), request.Namespace, request.Object.Raw, &pod)
	var unavailable *unavailableError
	switch {
	case errors.As(err, &unavailable):
		return nil, err
	case err != nil:
		s.refused.Add(1)
		log.Warn("pod refused", "reason", err)
		return &admission.AdmissionResponse{Result: &meta.Status{
			Status: meta.StatusFailure, Code: http.StatusBadRequest, Reason: meta.StatusReasonInvalid, Message: err.Error(),
		}}, nil
	case len(decision.Patch) == 0:
		s.leave(log.Info, decision, allowed)
		return allowed, nil
	}
	if allowed.Patch, err = decision.PatchJSON(); err != nil {
		return nil, fmt.Errorf("cannot write the patch: %w", err)
	}
	kind := admission.PatchTypeJSONPatch
	allowed.PatchType = &kind
	allowed.Warnings = decision.Notes
	s.injected.Add(1)
	log.Info("pod injected")
	return allowed, nil
}

// leave lets a pod through as it is; who asked for injection is told why.
func (s *Server) leave(say func(string, ...any), d inject.Decision, to *admission.AdmissionResponse) {
	if !d.Wanted {
		s.unasked.Add(1)
		return
	}
	s.skipped.Add(1)
	say("pod not injected", "reason", d.Reason)
	to.Warnings = []string{"weir does not inject the pod: " + d.Reason}
}

// podName is a pod's, or the prefix of one that is yet to be named.
func podName(p *core.Pod) string {
	if p.Name == "" {
		return p.GenerateName + "*"
	}
	return p.Name
}
