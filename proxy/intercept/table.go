package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotInstalled says that the kernel's rules are not those of the Config.
var ErrNotInstalled = errors.New("the rules are not in place")

// table names the table that is ours alone.
func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// socketBuffer holds what the kernel answers to a transaction, all of it at
// once.
const socketBuffer = 4 << 20

// open makes a connection to the kernel, which needs no closing: each use has
// a socket of its own.
func open() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, explain("cannot speak to the kernel over netlink", err)
	}
	return conn, nil
}

// Apply makes the kernel's rules those of c, in one transaction. It reports
// whether it had to change any. It needs CAP_NET_ADMIN in the network
// namespace of the calling thread.
func Apply(c Config) (changed bool, err error) {
	if err := c.check(); err != nil {
		return false, err
	}
	conn, err := open()
	if err != nil {
		return false, err
	}
	switch err := installed(conn, c); {
	case err == nil:
		return false, nil
	case !errors.Is(err, ErrNotInstalled):
		return false, explain("cannot read the kernel's rules", err)
	}
	t := table()
	// Added first, so that there is one to delete.
	conn.AddTable(t)
	conn.DelTable(t)
	conn.AddTable(t)
	for _, ch := range c.ruleset() {
		policy := nftables.ChainPolicyAccept
		added := conn.AddChain(&nftables.Chain{
			Name: ch.name, Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: ch.hook, Priority: nftables.ChainPriorityNATDest, Policy: &policy,
		})
		for _, r := range ch.rules {
			conn.AddRule(&nftables.Rule{
				Table: t, Chain: added, Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment),
			})
		}
	}
	if err := conn.Flush(); err != nil {
		return false, explain("cannot write the rules to the kernel", err)
	}
	return true, nil
}

// Remove takes the rules away; that there are none is no error. It reports
// whether there were any.
func Remove() (removed bool, err error) {
	conn, err := open()
	if err != nil {
		return false, err
	}
	there, err := hasTable(conn)
	if err != nil {
		return false, explain("cannot read the kernel's rules", err)
	}
	if !there {
		return false, nil
	}
	conn.AddTable(table()) // somebody else may be removing it
	conn.DelTable(table())
	if err := conn.Flush(); err != nil {
		return false, explain("cannot remove the rules from the kernel", err)
	}
	return true, nil
}

// Installed returns nil where the kernel's rules are those of c, and else an
// ErrNotInstalled that says how they differ, or why they cannot be read.
func Installed(c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	conn, err := open()
	if err != nil {
		return err
	}
	err = installed(conn, c)
	if err != nil && !errors.Is(err, ErrNotInstalled) {
		err = explain("cannot read the kernel's rules", err)
	}
	return err
}

// installed compares with what the kernel has.
func installed(conn *nftables.Conn, c Config) error {
	if there, err := hasTable(conn); err != nil {
		return err
	} else if !there {
		return fmt.Errorf("%w: there is no table inet %s", ErrNotInstalled, tableName)
	}
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	have := make(map[string]*nftables.Chain)
	for _, ch := range all {
		if ch.Table.Name == tableName {
			have[ch.Name] = ch
		}
	}
	want := c.ruleset()
	if len(have) != len(want) {
		return fmt.Errorf("%w: %d chains, want %d", ErrNotInstalled, len(have), len(want))
	}
	for _, ch := range want {
		got := have[ch.name]
		if got == nil || got.Hooknum == nil || *got.Hooknum != *ch.hook || got.Type != nftables.ChainTypeNAT ||
			got.Priority == nil || *got.Priority != *nftables.ChainPriorityNATDest ||
			got.Policy != nil && *got.Policy != nftables.ChainPolicyAccept {
			return fmt.Errorf("%w: no chain %s as wanted", ErrNotInstalled, ch.name)
		}
		rules, err := conn.GetRules(table(), got)
		if err != nil {
			return err
		}
		if len(rules) != len(ch.rules) {
			return fmt.Errorf("%w: chain %s has %d rules, want %d", ErrNotInstalled, ch.name, len(rules), len(ch.rules))
		}
		for i, r := range ch.rules {
			if !sameExprs(rules[i].Exprs, r.exprs) {
				return fmt.Errorf("%w: rule %d of chain %s is not %q", ErrNotInstalled, i+1, ch.name, r.text)
			}
		}
	}
	return nil
}

// hasTable tells whether the table exists.
func hasTable(conn *nftables.Conn) (bool, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	for _, t := range tables {
		if t.Name == tableName {
			return true, nil
		}
	}
	return false, nil
}

// sameExprs compares what goes over the wire, but for what counters counted.
func sameExprs(a, b []expr.Any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if _, ok := a[i].(*expr.Counter); ok {
			if _, ok := b[i].(*expr.Counter); !ok {
				return false
			}
			continue
		}
		x, err := expr.Marshal(byte(nftables.TableFamilyINet), a[i])
		if err != nil {
			return false
		}
		y, err := expr.Marshal(byte(nftables.TableFamilyINet), b[i])
		if err != nil || !bytes.Equal(x, y) {
			return false
		}
	}
	return true
}

// explain says what a refusal of the kernel's most likely means.
func explain(what string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, os.ErrPermission):
		hint = ": the container lacks the capability NET_ADMIN (securityContext.capabilities.add)"
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT),
		errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		hint = ": the kernel seems to lack nf_tables, nft_redir or nft_fib_inet (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NFT_FIB_INET)"
	}
	return fmt.Errorf("%s: %w%s", what, err, hint)
}
