package intercept

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/proxy/ports"
)

// ErrUsage says that flags or environment were wrong.
var ErrUsage = errors.New("wrong usage")

// envPrefix and the flag's name in capitals, '-' as '_', make the environment
// variable of a flag.
const envPrefix = "WEIR_PROXY_INIT_"

// defaultTimeout bounds the validation.
const defaultTimeout = 10 * time.Second

// options is what Command is told.
type options struct {
	Config
	dryRun, undo, check, validate bool
	timeout                       time.Duration
}

// setting is one flag, and its environment variable.
type setting struct {
	name, value, usage string
	// want says what is accepted, with an example.
	want string
	set  func(o *options, v string) error
}

func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// settings is every flag but --help, in the order of the help.
func settings() []setting {
	const list = "ports and ranges, for example --%s 22,8000-8010"
	return []setting{
		{"inbound-port", "PORT", "the proxy's port for inbound connections (default 4143)", "1 to 65535, for example --inbound-port 4143",
			func(o *options, v string) error { return setPort(&o.InboundPort, v) }},
		{"outbound-port", "PORT", "the proxy's port for outbound connections (default 4140)", "1 to 65535, for example --outbound-port 4140",
			func(o *options, v string) error { return setPort(&o.OutboundPort, v) }},
		{"admin-port", "PORT", "the proxy's port for metrics, never redirected (default 4191)", "1 to 65535, for example --admin-port 4191",
			func(o *options, v string) error { return setPort(&o.AdminPort, v) }},
		{"proxy-uid", "UID", "the user that the proxy alone runs as (default 1337)", "a number from 1 to 4294967294, for example --proxy-uid 1337",
			setUID},
		{"skip-inbound-ports", "PORTS", "ports of this pod that are reached without the proxy", fmt.Sprintf(list, "skip-inbound-ports"),
			func(o *options, v string) error { return setPorts(&o.SkipInbound, v) }},
		{"skip-outbound-ports", "PORTS", "ports that are reached from this pod without the proxy", fmt.Sprintf(list, "skip-outbound-ports"),
			func(o *options, v string) error { return setPorts(&o.SkipOutbound, v) }},
		{"skip-subnets", "CIDRS", "addresses that are reached from this pod without the proxy", "subnets of IPv4 and IPv6, for example --skip-subnets 10.96.0.0/12,fd00::/8",
			setSubnets},
		{"dry-run", "", "print the rules in nft's syntax, change nothing", wantBool("dry-run"),
			func(o *options, v string) error { return setBool(&o.dryRun, v) }},
		{"undo", "", "remove the rules; fine where there are none", wantBool("undo"),
			func(o *options, v string) error { return setBool(&o.undo, v) }},
		{"check", "", "validate the rules that are in place, change nothing", wantBool("check"),
			func(o *options, v string) error { return setBool(&o.check, v) }},
		{"validate", "", "prove, once the rules are in place, that they work (default true)", wantBool("validate"),
			func(o *options, v string) error { return setBool(&o.validate, v) }},
		{"validate-timeout", "DURATION", "bound of the validation (default 10s)", "a duration of at least 10ms, for example --validate-timeout 5s",
			setTimeout},
	}
}

func wantBool(flag string) string { return "true or false, for example --" + flag + "=true" }

// boolean settings are those without a value's name.
func (s *setting) boolean() bool { return s.value == "" }

// parse reads flags and environment: a flag outdoes its variable.
func parse(args []string, env func(string) string) (options, error) {
	o := options{Config: DefaultConfig(), validate: true, timeout: defaultTimeout}
	fs := flag.NewFlagSet("weir-proxy init", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	all := settings()
	given := make([][]string, len(all))
	for i := range all {
		keep := func(v string) error { given[i] = append(given[i], v); return nil }
		if all[i].boolean() {
			fs.BoolFunc(all[i].name, "", keep)
		} else {
			fs.Func(all[i].name, "", keep)
		}
	}
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, fmt.Errorf("%s; weir-proxy init --help lists the flags", strings.Replace(err.Error(), ": -", ": --", 1))
	case fs.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q: everything is a flag; weir-proxy init --help lists them", fs.Arg(0))
	}
	for i := range all {
		if err := all[i].apply(&o, given[i], env); err != nil {
			return o, err
		}
	}
	if o.dryRun && (o.undo || o.check) || o.undo && o.check {
		return o, errors.New("--dry-run, --undo and --check exclude each other: give one of them")
	}
	return o, o.Config.check()
}

// apply sets the value given as a flag, or else that of the environment.
func (s *setting) apply(o *options, given []string, env func(string) string) error {
	from := "--" + s.name
	if len(given) == 0 {
		v := env(s.env())
		if v == "" {
			return nil
		}
		from, given = s.env(), []string{v}
	}
	if len(given) > 1 {
		return fmt.Errorf("%s is given %d times, want it once", from, len(given))
	}
	if err := s.set(o, given[0]); err != nil {
		return fmt.Errorf("%s %q: %w; want %s", from, given[0], err, s.want)
	}
	return nil
}

// Command is `weir-proxy init`: args are what follows "init". It writes the
// rules or the help to stdout where that is what is asked for, and what it did
// to stderr. errors.Is(err, ErrUsage) tells wrong flags from failures.
func Command(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, env)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, usage())
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	switch {
	case o.dryRun:
		text, err := o.Rules()
		if err == nil {
			_, err = io.WriteString(stdout, text)
		}
		return err
	case o.undo:
		removed, err := Remove()
		if err == nil {
			fmt.Fprintln(stderr, map[bool]string{true: "rules removed", false: "there were no rules"}[removed])
		}
		return err
	case !o.check:
		changed, err := Apply(o.Config)
		if err != nil {
			return err
		}
		fmt.Fprintf(stderr, "%s: inbound to port %d, outbound to port %d, exempt is uid %d\n",
			map[bool]string{true: "rules written", false: "rules were in place already"}[changed],
			o.InboundPort, o.OutboundPort, o.ProxyUID)
	}
	if !o.check && !o.validate {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	proven, err := Probe(ctx, o.Config)
	if err != nil {
		return err
	}
	if len(proven) == 0 {
		fmt.Fprintln(stderr, "rules are in place; every outbound port is skipped, so no redirect was tried")
		return nil
	}
	fmt.Fprintf(stderr, "redirection works over %s\n", strings.Join(proven, " and "))
	return nil
}

// usage is the text of --help.
func usage() string {
	var b strings.Builder
	b.WriteString("weir-proxy init redirects a pod's TCP connections to its proxy, once, before the application starts.\n" +
		"It needs the capability NET_ADMIN, and the table inet weir of nftables is its own.\n\n" +
		"Usage:\n  weir-proxy init --skip-inbound-ports 22 --skip-outbound-ports 25,8000-8010\n\n" +
		"Flags (each also as environment variable, the flag outdoes it):\n")
	for _, s := range settings() {
		fmt.Fprintf(&b, "  --%s\n        %s; %s\n", strings.TrimSpace(s.name+" "+s.value), s.usage, s.env())
	}
	return b.String()
}

func setPort(dst *uint16, v string) (err error) {
	*dst, err = ports.ParseOne(v)
	return err
}

func setUID(o *options, v string) error {
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n == 0 || n == 1<<32-1 {
		return errors.New("it is no such number")
	}
	o.ProxyUID = uint32(n)
	return nil
}

func setPorts(dst *[]ports.Range, v string) (err error) {
	*dst, err = ports.Parse(v)
	return err
}

func setSubnets(o *options, v string) error {
	for entry := range strings.SplitSeq(v, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		p, err := netip.ParsePrefix(entry)
		if err != nil {
			return fmt.Errorf("%q is no subnet", entry)
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("%q is IPv4 written as IPv6: write it as IPv4", entry)
		}
		o.SkipSubnets = append(o.SkipSubnets, p)
	}
	return nil
}

func setBool(dst *bool, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return errors.New("it is neither")
	}
	*dst = b
	return nil
}

func setTimeout(o *options, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 10*time.Millisecond {
		return errors.New("it is no such duration")
	}
	o.timeout = d
	return nil
}
