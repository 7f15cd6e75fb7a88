package inject

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"unicode"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

var (
	dnsName = rapid.StringMatching(`[a-z]([a-z0-9-]{0,8}[a-z0-9])?`)
	// freeText is what people write; what YAML cannot hold raw (control characters)
	// is beside the point here.
	freeText = rapid.OneOf(
		rapid.StringOf(rapid.RuneFrom([]rune(" \n\t\"'\\:#{}[],&*!|>%@`-?"), unicode.Letter, unicode.Number, unicode.Punct, unicode.Symbol)),
		rapid.SampledFrom([]string{"", "yes", "0755", "1e3", "null", "~", "---", "# no comment", "a: b", "- a", "{}", "x\n---\ny\n", " x ", "'"}),
	)
)

func maybe[T any](t *rapid.T, label string, gen func() T) *T {
	if !rapid.Bool().Draw(t, label) {
		return nil
	}
	v := gen()
	return &v
}

func some[T any](t *rapid.T, label string, most int, gen func(i int) T) []T {
	var out []T
	for i := range rapid.IntRange(0, most).Draw(t, label) {
		out = append(out, gen(i))
	}
	return out
}

func anyProbe(t *rapid.T) core.Probe {
	p := core.Probe{PeriodSeconds: rapid.Int32Range(0, 9).Draw(t, "period")}
	port := rapid.SampledFrom([]intstr.IntOrString{intstr.FromInt32(8080), intstr.FromString("http")}).Draw(t, "port")
	switch rapid.IntRange(0, 3).Draw(t, "probe") {
	case 0:
		p.HTTPGet = &core.HTTPGetAction{Path: "/" + freeText.Draw(t, "path"), Port: port}
	case 1:
		p.TCPSocket = &core.TCPSocketAction{Port: port}
	case 2:
		p.Exec = &core.ExecAction{Command: rapid.SliceOf(freeText).Draw(t, "command")}
	case 3:
		p.GRPC = &core.GRPCAction{Port: 9000}
	}
	return p
}

func anyContainer(t *rapid.T, i int) core.Container {
	return core.Container{
		Name:    fmt.Sprintf("%s-%d", dnsName.Draw(t, "container"), i),
		Image:   dnsName.Draw(t, "image"),
		Command: rapid.SliceOfN(freeText, 0, 3).Draw(t, "command"),
		Args:    rapid.SliceOfN(freeText, 0, 3).Draw(t, "args"),
		Ports: some(t, "ports", 2, func(i int) core.ContainerPort {
			return core.ContainerPort{ContainerPort: 8080 + int32(i), HostPort: rapid.Int32Range(0, 9000).Draw(t, "hostPort")}
		}),
		Env: some(t, "env", 3, func(i int) core.EnvVar {
			return core.EnvVar{Name: fmt.Sprintf("V%d", i), Value: freeText.Draw(t, "value")}
		}),
		ReadinessProbe: maybe(t, "readiness", func() core.Probe { return anyProbe(t) }),
		LivenessProbe:  maybe(t, "liveness", func() core.Probe { return anyProbe(t) }),
		SecurityContext: maybe(t, "security", func() core.SecurityContext {
			return core.SecurityContext{
				RunAsUser:  maybe(t, "user", func() int64 { return rapid.Int64Range(0, 1336).Draw(t, "uid") }),
				Privileged: maybe(t, "privileged", func() bool { return rapid.Bool().Draw(t, "is") }),
			}
		}),
	}
}

func anyVolume(t *rapid.T, i int) core.Volume {
	v := core.Volume{Name: fmt.Sprintf("v%d", i)}
	switch rapid.IntRange(0, 3).Draw(t, "volume") {
	case 0:
		limit := resource.MustParse("1Mi")
		v.EmptyDir = &core.EmptyDirVolumeSource{SizeLimit: &limit}
	case 1:
		v.Projected = &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{{
			ServiceAccountToken: &core.ServiceAccountTokenProjection{Audience: freeText.Draw(t, "audience"), Path: "token"},
		}}}
	case 2:
		v.ConfigMap = &core.ConfigMapVolumeSource{DefaultMode: ptr[int32](0o440)}
	case 3:
		v.HostPath = &core.HostPathVolumeSource{Path: "/" + freeText.Draw(t, "path")}
	}
	return v
}

func anyTemplate(t *rapid.T) core.PodTemplateSpec {
	return core.PodTemplateSpec{
		ObjectMeta: meta.ObjectMeta{
			Labels:      rapid.MapOfN(dnsName, freeText, 1, 3).Draw(t, "labels"),
			Annotations: rapid.MapOfN(dnsName, freeText, 0, 3).Draw(t, "annotations"),
		},
		Spec: core.PodSpec{
			InitContainers: some(t, "initContainers", 2, func(i int) core.Container { return anyContainer(t, i) }),
			Containers:     append(some(t, "containers", 2, func(i int) core.Container { return anyContainer(t, i) }), anyContainer(t, 9)),
			Volumes:        some(t, "volumes", 3, func(i int) core.Volume { return anyVolume(t, i) }),
			SecurityContext: maybe(t, "podSecurity", func() core.PodSecurityContext {
				return core.PodSecurityContext{RunAsNonRoot: ptr(true), FSGroup: maybe(t, "fsGroup", func() int64 { return 7 })}
			}),
			AutomountServiceAccountToken: maybe(t, "automount", func() bool { return false }),
			NodeSelector:                 rapid.MapOfN(dnsName, freeText, 0, 2).Draw(t, "nodeSelector"),
		},
	}
}

// anyObject is of one of the kinds that are injected.
func anyObject(t *rapid.T) any {
	template := anyTemplate(t)
	m := meta.ObjectMeta{Name: dnsName.Draw(t, "name")}
	kind := func(kind, version string) meta.TypeMeta { return meta.TypeMeta{Kind: kind, APIVersion: version} }
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0:
		return apps.DaemonSet{TypeMeta: kind("DaemonSet", "apps/v1"), ObjectMeta: m, Spec: apps.DaemonSetSpec{Template: template}}
	case 1:
		return apps.StatefulSet{TypeMeta: kind("StatefulSet", "apps/v1"), ObjectMeta: m, Spec: apps.StatefulSetSpec{Template: template}}
	case 2:
		return apps.ReplicaSet{TypeMeta: kind("ReplicaSet", "apps/v1"), ObjectMeta: m, Spec: apps.ReplicaSetSpec{Template: template}}
	case 3:
		return core.ReplicationController{TypeMeta: kind("ReplicationController", "v1"), ObjectMeta: m, Spec: core.ReplicationControllerSpec{Template: &template}}
	case 4:
		return batch.Job{TypeMeta: kind("Job", "batch/v1"), ObjectMeta: m, Spec: batch.JobSpec{Template: template}}
	case 5:
		return batch.CronJob{TypeMeta: kind("CronJob", "batch/v1"), ObjectMeta: m, Spec: batch.CronJobSpec{
			Schedule: "* * * * *", JobTemplate: batch.JobTemplateSpec{Spec: batch.JobSpec{Template: template}},
		}}
	case 6:
		m.Labels, m.Annotations = template.Labels, template.Annotations
		return core.Pod{TypeMeta: kind("Pod", "v1"), ObjectMeta: m, Spec: template.Spec}
	}
	return apps.Deployment{TypeMeta: kind("Deployment", "apps/v1"), ObjectMeta: m, Spec: apps.DeploymentSpec{Template: template}}
}

// write puts objects into a stream, in one of the ways that there are.
func write(t *rapid.T, objects []any) []byte {
	form := rapid.SampledFrom([]string{"yaml", "json", "pretty", "list"}).Draw(t, "form")
	if form == "list" {
		objects = []any{map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}}
	}
	var out []byte
	for _, o := range objects {
		var text []byte
		var err error
		switch form {
		case "json":
			text, err = json.Marshal(o)
		case "pretty":
			text, err = json.MarshalIndent(o, "", "  ")
		default:
			out = append(out, "---\n"...)
			text, err = yaml.Marshal(o)
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, text...), '\n')
	}
	return out
}

// TestUninjectUndoesInject over generated objects: what is injected is, with other
// containers and volumes as they were; what is uninjected then is byte for byte what
// was there at first.
func TestUninjectUndoesInject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var objects []any
		for range rapid.IntRange(1, 3).Draw(t, "objects") {
			objects = append(objects, anyObject(t))
		}
		in := write(t, objects)
		o := options("")
		o.Flags["native-sidecar"] = fmt.Sprint(rapid.Bool().Draw(t, "native"))
		o.Config.Spool = rapid.SampledFrom([]string{"", "16Mi", "none"}).Draw(t, "spool")
		out, reports, err := Inject(in, o)
		if err != nil {
			t.Fatalf("%v\n%s", err, in)
		}
		for _, r := range reports {
			if r.Action != Injected {
				t.Fatalf("%v\n%s", r, in)
			}
		}
		again, _, err := Inject(out, o)
		if err != nil || string(again) != string(out) {
			t.Fatalf("injected twice it is another: %v\n%s\n%s", err, out, again)
		}
		back, _, err := Uninject(out)
		if err != nil {
			t.Fatal(err)
		}
		before, err := split(in)
		if err != nil {
			t.Fatal(err)
		}
		after, err := split(back)
		if err != nil {
			t.Fatal(err)
		}
		for i := range before {
			if !reflect.DeepEqual(before[i].value, after[i].value) {
				t.Fatalf("uninjected it has other values:\n%s\n%s", before[i].text, after[i].text)
			}
		}
		if string(back) != string(in) {
			t.Fatalf("uninjected it is another text:\n%s\n%s", in, back)
		}
	})
}
