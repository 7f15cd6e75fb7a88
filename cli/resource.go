package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/suggest"
)

// Kinds with a meaning of their own here.
const (
	kindNamespace = "ns"
	kindPod       = "pod"
	// kindAll stands for every kind of workload.
	kindAll = "all"
)

// kinds are the types of resources: kubectl's short form, then its other names.
var kinds = [...][]string{
	{"deploy", "deployment", "deployments"},
	{"sts", "statefulset", "statefulsets"},
	{"ds", "daemonset", "daemonsets"},
	{"job", "jobs"},
	{"cronjob", "cronjobs", "cj"},
	{"rs", "replicaset", "replicasets"},
	{"rc", "replicationcontroller", "replicationcontrollers"},
	{kindPod, "pods", "po"},
	{kindNamespace, "namespace", "namespaces"},
	{"ext", "external"},
	{kindAll},
}

// parseKind turns any of kubectl's names of a type into its short form.
func parseKind(s string) (string, error) {
	lower := strings.ToLower(s)
	var known, all []string
	for _, names := range kinds {
		if slices.Contains(names, lower) {
			return names[0], nil
		}
		known = append(known, names[0])
		all = append(all, names...)
	}
	if lower == "svc" || strings.HasPrefix("services", lower) && len(lower) > 2 {
		return "", errors.New("a Service has no proxy, and so no rows of its own: ask for the workloads behind it, as deploy/web, or filter by --authority where there is that flag")
	}
	return "", fmt.Errorf("unknown resource type %q%s (known: %s)", s, didYouMean(suggest.Near(lower, all)), strings.Join(known, ", "))
}

// ofPods tells whether any of the resources is a pod, or all of them.
func ofPods(resources []*weirpb.Resource) bool {
	return slices.ContainsFunc(resources, func(r *weirpb.Resource) bool { return r.GetKind() == kindPod })
}

// parseResource reads TYPE or TYPE/NAME.
func parseResource(s string) (*weirpb.Resource, error) {
	kind, name, named := strings.Cut(s, "/")
	if kind == "" {
		return nil, fmt.Errorf("%q is not TYPE or TYPE/NAME", s)
	}
	k, err := parseKind(kind)
	if err != nil {
		return nil, err
	}
	if named && (name == "" || strings.Contains(name, "/")) {
		return nil, fmt.Errorf("%q is not TYPE/NAME", s)
	}
	if k == kindAll {
		if named {
			return nil, fmt.Errorf("%q: all has no name; give the type of %s", s, name)
		}
		k = ""
	}
	return &weirpb.Resource{Kind: k, Name: name}, nil
}

// parseResources reads (TYPE [NAME…] | TYPE/NAME…). Namespaces are left open.
func parseResources(args []string) ([]*weirpb.Resource, error) {
	var out []*weirpb.Resource
	if len(args) > 1 && !strings.Contains(args[0], "/") {
		for _, name := range args[1:] {
			if strings.Contains(name, "/") {
				return nil, fmt.Errorf("cannot mix %q and %q: give either TYPE NAME… or TYPE/NAME…", args[0], name)
			}
			r, err := parseResource(args[0] + "/" + name)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
		return out, nil
	}
	for _, arg := range args {
		r, err := parseResource(arg)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// scope is the flags -n and -A.
type scope struct {
	namespace string
	all       bool
	// given tells whether -n was.
	given bool
}

// defaultNamespace is kubectl's.
const defaultNamespace = "default"

func (s *scope) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&s.namespace, "namespace", "n", defaultNamespace, "namespace of the resource")
	cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "resources of all namespaces")
}

func (s *scope) check(cmd *cobra.Command) error {
	s.given = cmd.Flags().Changed("namespace")
	if s.all && s.given {
		return Usagef(cmd, "-n and -A contradict each other")
	}
	var err error
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		// A variable of a script that is not set must not mean everything.
		if f.Changed && err == nil && f.Value.String() == "" && f.Name != "by" {
			err = Usagef(cmd, "--%s is empty: leave it out, or say what is meant", f.Name)
		}
	})
	return err
}

// apply sets the namespace of r.
func (s *scope) apply(r *weirpb.Resource) {
	switch {
	case r.GetKind() == kindNamespace:
		// A namespace is in none; an unnamed one is any of them.
		r.Namespace = r.GetName()
	case !s.all:
		r.Namespace = s.namespace
	}
}

// peers is the flags --to and --from with their namespaces.
type peers struct{ to, toNamespace, from, fromNamespace string }

func (p *peers) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.to, "to", "", "only traffic to this resource, TYPE or TYPE/NAME")
	cmd.Flags().StringVar(&p.toNamespace, "to-namespace", "", "namespace of --to; without --to: only traffic to this namespace (default: that of the resource)")
	cmd.Flags().StringVar(&p.from, "from", "", "only traffic from this resource, TYPE or TYPE/NAME")
	cmd.Flags().StringVar(&p.fromNamespace, "from-namespace", "", "namespace of --from; without --from: only traffic from this namespace (default: that of the resource)")
}

// resolve gives both sides, nil where not asked for.
func (p *peers) resolve(cmd *cobra.Command, s *scope) (to, from *weirpb.Resource, err error) {
	if to, err = peer(p.to, p.toNamespace, s); err != nil {
		return nil, nil, Usagef(cmd, "--to: %w", err)
	}
	if from, err = peer(p.from, p.fromNamespace, s); err != nil {
		return nil, nil, Usagef(cmd, "--from: %w", err)
	}
	return to, from, nil
}

// one is resolve where traffic has one direction.
func (p *peers) one(cmd *cobra.Command, s *scope) (to, from *weirpb.Resource, err error) {
	if to, from, err = p.resolve(cmd, s); err == nil && to != nil && from != nil {
		err = Usagef(cmd, "--to and --from contradict each other: traffic is either what a resource sends or what it gets")
	}
	return to, from, err
}

func peer(res, namespace string, s *scope) (*weirpb.Resource, error) {
	if res == "" && namespace == "" {
		return nil, nil
	}
	r := &weirpb.Resource{}
	if res != "" {
		var err error
		if r, err = parseResource(res); err != nil {
			return nil, err
		}
	}
	if namespace != "" {
		r.Namespace = namespace
	} else {
		s.apply(r)
	}
	return r, nil
}

// describe names a resource as a user would: "deploy/web", "deploy", "all".
func describe(r *weirpb.Resource) string {
	switch {
	case r.GetKind() == "" && r.GetName() == "":
		return kindAll
	case r.GetName() == "":
		return r.GetKind()
	}
	return r.GetKind() + "/" + r.GetName()
}

// completeResources offers the types of resources.
func completeResources(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k[0])
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
