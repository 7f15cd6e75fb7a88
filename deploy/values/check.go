package values

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// form is what a text may look like.
type form struct {
	pattern *regexp.Regexp
	// like says what is wanted, for people.
	like string
}

const (
	nameExpr     = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
	domainExpr   = nameExpr + `(\.` + nameExpr + `)*`
	subnetExpr   = `[0-9A-Fa-f.:]{2,39}/[0-9]{1,3}`
	portExpr     = `[0-9]{1,5}(-[0-9]{1,5})?`
	quantityExpr = `[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?`
)

// forms are the forms by the name that a field's tag gives.
func forms() map[string]form {
	f := func(expr, like string) form { return form{regexp.MustCompile(`^(` + expr + `)$`), like} }
	return map[string]form{
		"name":     f(nameExpr, "a name of lower-case letters, digits and '-'"),
		"domain":   f(domainExpr, "a DNS name, as cluster.local"),
		"registry": f(`[a-zA-Z0-9][-a-zA-Z0-9._:/]*[a-zA-Z0-9]`, "a registry and path, as ghcr.io/weirmesh"),
		"tag":      f(`|[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`, "an image's tag, or empty"),
		"class":    f(`|`+domainExpr, "a StorageClass's name, or empty"),
		"quantity": f(`|`+quantityExpr, "a quantity, as 100m or 64Mi, or empty"),
		"size":     f(`[0-9]+(KiB|MiB|GiB)?`, "a size, as 256MiB"),
		"duration": f(`([0-9]+(\.[0-9]+)?(ms|s|m|h))+`, "a duration, as 1h30m"),
		"ports":    f(`|`+portExpr+`(,`+portExpr+`)*`, "ports and ranges with commas between, as 25,8000-9000, or empty"),
		"subnets":  f(`|`+subnetExpr+`(,`+subnetExpr+`)*`, "subnets with commas between, as 192.0.2.0/24,2001:db8::/32, or empty"),
	}
}

// Decode lays what was given over base and checks the outcome. What is in given
// and unknown or wrong is refused by its name, with what is wanted; all such
// faults are in the error, one a line.
func Decode(base *Values, given map[string]any) (*Values, error) {
	var faults []error
	merged := tree(reflect.ValueOf(*base))
	overlay(merged, given, reflect.TypeFor[Values](), "", &faults)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	text, err := json.Marshal(merged)
	if err != nil {
		return nil, fmt.Errorf("cannot read the values: %w", err)
	}
	v := new(Values)
	if err := json.Unmarshal(text, v); err != nil {
		return nil, fmt.Errorf("cannot read the values: %w", err)
	}
	return v, v.cross()
}

// Map returns the values as Helm takes them.
func (v *Values) Map() map[string]any { return tree(reflect.ValueOf(*v)) }

// cross checks values against each other.
func (v *Values) cross() error {
	i := v.Issuer
	given := 0
	for _, pem := range []string{i.TrustAnchors, i.Certificate, i.Key} {
		if pem != "" {
			given++
		}
	}
	switch {
	case given != 0 && given != 3:
		return errors.New("issuer: trustAnchors, certificate and key belong together: give all three or none")
	case given != 0 && i.Existing:
		return errors.New("issuer.existing: it says that others make the issuer; then give none")
	}
	if v.Proxy.SkipSubnets == "" {
		return nil
	}
	for subnet := range strings.SplitSeq(v.Proxy.SkipSubnets, ",") {
		if _, err := netip.ParsePrefix(subnet); err != nil {
			return fmt.Errorf("proxy.skipSubnets: %q is no subnet, as 192.0.2.0/24", subnet)
		}
	}
	return nil
}

// tree turns a struct into maps, as JSON would.
func tree(v reflect.Value) map[string]any {
	out := make(map[string]any, v.NumField())
	for i := range v.NumField() {
		name, field := v.Type().Field(i).Tag.Get("json"), v.Field(i)
		switch field.Kind() {
		case reflect.Struct:
			out[name] = tree(field)
		case reflect.Slice:
			list := make([]any, field.Len())
			for n := range list {
				list[n] = field.Index(n).Interface()
			}
			out[name] = list
		case reflect.Map:
			m := make(map[string]any, field.Len())
			for _, key := range field.MapKeys() {
				m[key.String()] = field.MapIndex(key).Interface()
			}
			out[name] = m
		default:
			out[name] = field.Interface()
		}
	}
	return out
}

// overlay puts given into onto and notes what is wrong with it.
func overlay(onto, given map[string]any, t reflect.Type, path string, faults *[]error) {
	fields, names := map[string]reflect.StructField{}, []string{}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("json")
		fields[name] = t.Field(i)
		names = append(names, name)
	}
	for _, key := range sorted(given) {
		at := strings.TrimPrefix(path+"."+key, ".")
		field, known := fields[key]
		if !known {
			sort.Strings(names)
			*faults = append(*faults, fmt.Errorf("%s: there is no such value; %s has: %s", at, orWhole(path), strings.Join(names, ", ")))
			continue
		}
		if given[key] == nil {
			continue // "bus:" with nothing below
		}
		if field.Type.Kind() == reflect.Struct {
			inner, ok := given[key].(map[string]any)
			if !ok {
				*faults = append(*faults, fmt.Errorf("%s: %v is no set of values", at, given[key]))
				continue
			}
			overlay(onto[key].(map[string]any), inner, field.Type, at, faults)
			continue
		}
		value, err := leaf(field, given[key])
		if err != nil {
			*faults = append(*faults, fmt.Errorf("%s: %w", at, err))
			continue
		}
		onto[key] = value
	}
}

func orWhole(path string) string {
	if path == "" {
		return "the top"
	}
	return strings.TrimPrefix(path, ".")
}

func sorted(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// leaf checks a value that is no struct.
func leaf(field reflect.StructField, value any) (any, error) {
	switch field.Type.Kind() {
	case reflect.Bool:
		if b, ok := value.(bool); ok {
			return b, nil
		}
		return nil, fmt.Errorf("%v is neither true nor false", quoted(value))
	case reflect.Int:
		return whole(field, value)
	case reflect.String:
		return text(field, value)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return nil, fmt.Errorf("%v is no list", quoted(value))
		}
		for _, one := range list {
			if field.Type.Elem().Kind() != reflect.String {
				if _, ok := one.(map[string]any); !ok {
					return nil, fmt.Errorf("%v is no set of values", quoted(one))
				}
			} else if _, err := text(field, one); err != nil {
				return nil, err
			}
		}
		return list, nil
	default: // a map of texts
		m, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%v is no set of values", quoted(value))
		}
		for _, key := range sorted(m) {
			if _, ok := m[key].(string); !ok {
				return nil, fmt.Errorf("%s: %v is no text", key, m[key])
			}
		}
		return m, nil
	}
}

func quoted(value any) any {
	if s, ok := value.(string); ok {
		return strconv.Quote(s)
	}
	return value
}

func whole(field reflect.StructField, value any) (any, error) {
	n, ok := int64(0), true
	switch v := value.(type) {
	case int:
		n = int64(v)
	case int64:
		n = v
	case float64:
		n, ok = int64(v), v == math.Trunc(v)
	default:
		ok = false
	}
	if !ok {
		return nil, fmt.Errorf("%v is no whole number", quoted(value))
	}
	least, most := bounds(field)
	if n < least || n > most {
		return nil, fmt.Errorf("%d is not between %d and %d", n, least, most)
	}
	return n, nil
}

func bounds(field reflect.StructField) (least, most int64) {
	least, _ = strconv.ParseInt(field.Tag.Get("min"), 10, 64) // a test reads every tag
	most, _ = strconv.ParseInt(field.Tag.Get("max"), 10, 64)
	return least, most
}

func text(field reflect.StructField, value any) (any, error) {
	var s string
	switch v := value.(type) {
	case string:
		s = v
	case int, int64, float64: // tag: 1.0, or a limit of 1 CPU
		s = fmt.Sprint(v)
	default:
		return nil, fmt.Errorf("%v is no text", value)
	}
	if enum := field.Tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), s) {
		return nil, fmt.Errorf("%q is none of %s", s, strings.ReplaceAll(enum, ",", ", "))
	}
	if name := field.Tag.Get("form"); name != "" {
		if f := forms()[name]; !f.pattern.MatchString(s) {
			return nil, fmt.Errorf("%q is not %s", s, f.like)
		}
	}
	return s, nil
}
