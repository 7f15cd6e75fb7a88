package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api/client"
	core "k8s.io/api/core/v1"
)

// troubleshooting is where each hint is an anchor.
const troubleshooting = "https://github.com/weirmesh/weir/blob/main/docs/troubleshooting.md#"

const (
	// checkTimeout bounds one try of one check.
	checkTimeout = 30 * time.Second
	// checkPause is how long a check that may come right is left alone.
	checkPause = time.Second
)

// check is one thing that should hold.
type check struct {
	// says what should hold, do what to do where it does not, hint where more is
	// said: an anchor of docs/troubleshooting.md.
	says, do, hint string
	// retry: it may come right while an installation starts.
	retry bool
	// warn: where it does not hold, things work on.
	warn bool
	// fatal: where it does not hold, nothing else can be checked.
	fatal bool
	run   func(ctx context.Context) error
}

// category is some checks under a name.
type category struct {
	name   string
	checks []check
}

// Results of a check.
const (
	resultOK      = "success"
	resultWarning = "warning"
	resultError   = "error"
)

// checked is a check's result, in the form that `linkerd check -o json` has.
type checked struct {
	Description string `json:"description"`
	Hint        string `json:"hint,omitempty"`
	// Do is what to do.
	Do     string `json:"do,omitempty"`
	Error  string `json:"error,omitempty"`
	Result string `json:"result"`
}

// checkedCategory is a category's results.
type checkedCategory struct {
	Name   string    `json:"categoryName"`
	Checks []checked `json:"checks"`
}

type checkCommand struct {
	*app
	pre, proxy bool
	namespace  string
	wait       time.Duration
	output     output

	deadline time.Time
	// What earlier checks found, for later ones.
	k      *kubeCluster
	client *client.Client
	pki    *pki
	values []byte
	pods   []core.Pod
}

const outputShort output = "short"

func newCheck(a *app) *cobra.Command {
	c := &checkCommand{app: a}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check an installation in Kubernetes, and say what to do",
		Long: `Check an installation of Weir in Kubernetes: the cluster, certificates, the
control plane's pods, the webhook, the bus and the aggregators; with --proxy the
proxies, too; with --pre, in its place, whether a cluster is fit for one.

What may come right by itself while pods start is waited for (--wait). Each check
that fails says what to do. The exit code is 1 where one failed; warnings do not
count.`,
		Example: `  weir check --pre
  weir check
  weir check --proxy -n emojivoto
  weir check -o json --wait 30s`,
		Args: noArgs,
		RunE: c.run,
	}
	f := cmd.Flags()
	f.BoolVar(&c.pre, "pre", false, "check whether Weir can be installed")
	f.BoolVar(&c.proxy, "proxy", false, "check the proxies of injected pods, too")
	f.StringVarP(&c.namespace, "namespace", "n", "", "with --proxy: only the proxies of this namespace (default: all)")
	f.DurationVar(&c.wait, "wait", 5*time.Minute, "how long to wait for what may come right by itself")
	outputFlag(cmd, &c.output, outputTable, outputShort, outputJSON)
	return cmd
}

func (c *checkCommand) run(cmd *cobra.Command, _ []string) error {
	switch {
	case c.pre && c.proxy:
		return Usagef(cmd, "--pre and --proxy exclude each other: before an installation there are no proxies")
	case c.namespace != "" && !c.proxy:
		return Usagef(cmd, "-n needs --proxy: it says whose proxies to check; --weir-namespace says where Weir is")
	case c.wait < 0:
		return Usagef(cmd, "--wait %s: how long is that?", c.wait)
	}
	c.deadline = time.Now().Add(c.wait)
	defer func() {
		if c.client != nil {
			_ = c.client.Close()
		}
	}()
	results, err := c.runAll(cmd.Context(), c.categories())
	if err != nil {
		return err
	}
	failed := 0
	for _, category := range results {
		for _, r := range category.Checks {
			if r.Result == resultError {
				failed++
			}
		}
	}
	out, err := c.render(results, failed == 0)
	if err == nil {
		err = c.write(out)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d %s failed", failed, plural(failed, "check", "checks"))
	}
	return err
}

// categories are what is to be checked, in order.
func (c *checkCommand) categories() []category {
	all := c.clusterChecks()
	if c.pre {
		return append(all, c.preChecks())
	}
	all = append(all, c.configChecks(), c.identityChecks(), c.controlPlaneChecks(), c.webhookChecks(), c.versionChecks())
	all = append(all, c.meshChecks()...)
	if c.proxy {
		all = append(all, c.dataPlaneChecks())
	}
	return all
}

// runAll runs checks until one is fatal; its error is ctx's.
func (c *checkCommand) runAll(ctx context.Context, all []category) ([]checkedCategory, error) {
	var out []checkedCategory
	for _, category := range all {
		results := checkedCategory{Name: category.name}
		for _, check := range category.checks {
			err := c.try(ctx, &check)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			results.Checks = append(results.Checks, result(&check, err))
			if err != nil && check.fatal {
				return append(out, results), nil
			}
		}
		out = append(out, results)
	}
	return out, nil
}

// try runs a check, again and again where that may help.
func (c *checkCommand) try(ctx context.Context, check *check) error {
	for said := false; ; {
		bounded, cancel := context.WithTimeout(ctx, checkTimeout)
		err := check.run(bounded)
		cancel()
		if err == nil || !check.retry || !time.Now().Before(c.deadline) {
			return err
		}
		if !said {
			said = true
			c.notef("Waiting until %s: %v.", check.says, err)
		}
		select {
		case <-time.After(checkPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errSkipped says that a check does not apply.
var errSkipped = errors.New("does not apply")

func result(check *check, err error) checked {
	r := checked{Description: check.says, Result: resultOK}
	if err == nil || errors.Is(err, errSkipped) {
		return r
	}
	r.Result, r.Error, r.Do, r.Hint = resultError, err.Error(), check.do, troubleshooting+check.hint
	if check.warn {
		r.Result = resultWarning
	}
	return r
}

var glyphs = map[string]string{resultOK: "√", resultWarning: "‼", resultError: "×"}

func (c *checkCommand) render(results []checkedCategory, ok bool) ([]byte, error) {
	if c.output == outputJSON {
		return renderOne(struct {
			Success    bool              `json:"success"`
			Categories []checkedCategory `json:"categories"`
		}{ok, results})
	}
	var out bytes.Buffer
	for _, category := range results {
		var lines bytes.Buffer
		for _, r := range category.Checks {
			if c.output == outputShort && r.Result == resultOK {
				continue
			}
			fmt.Fprintf(&lines, "%s %s\n", glyphs[r.Result], r.Description)
			if r.Result != resultOK {
				fmt.Fprintf(&lines, "    %s\n    To do: %s\n    See %s\n", strings.ReplaceAll(clean(r.Error), "\n", "\n    "), r.Do, r.Hint)
			}
		}
		if lines.Len() > 0 {
			fmt.Fprintf(&out, "%s\n%s\n%s\n", category.Name, strings.Repeat("-", len(category.Name)), lines.String())
		}
	}
	verdict := glyphs[resultOK]
	if !ok {
		verdict = glyphs[resultError]
	}
	fmt.Fprintf(&out, "Status check results are %s\n", verdict)
	return out.Bytes(), nil
}

// clean keeps what an error quotes from being more than text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// some names the first few of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
