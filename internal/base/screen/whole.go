package screen

import (
	"encoding"
	"encoding/json"
	"reflect"
)

// whole returns a copy of v in which no list and no map is nil, so that scripts
// can iterate over them. Values that encode themselves are left as they are.
func whole(v any) any {
	if v == nil {
		return nil
	}
	return fill(reflect.ValueOf(v)).Interface()
}

var (
	marshaler     = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

func fill(v reflect.Value) reflect.Value {
	t := v.Type()
	if p := reflect.PointerTo(t); p.Implements(marshaler) || p.Implements(textMarshaler) {
		return v // a pointer has the methods of its value too
	}
	switch t.Kind() {
	case reflect.Slice:
		return fillSlice(v)
	case reflect.Map:
		return fillMap(v)
	case reflect.Struct:
		return fillStruct(v)
	case reflect.Array:
		out := reflect.New(t).Elem()
		for i := range v.Len() {
			out.Index(i).Set(fill(v.Index(i)))
		}
		return out
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out := reflect.New(t.Elem())
		out.Elem().Set(fill(v.Elem()))
		return out
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		return fill(v.Elem())
	}
	return v
}

func fillSlice(v reflect.Value) reflect.Value {
	if v.Type().Elem().Kind() == reflect.Uint8 && !v.IsNil() {
		return v
	}
	out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
	for i := range v.Len() {
		out.Index(i).Set(fill(v.Index(i)))
	}
	return out
}

func fillMap(v reflect.Value) reflect.Value {
	out := reflect.MakeMapWithSize(v.Type(), v.Len())
	for it := v.MapRange(); it.Next(); {
		out.SetMapIndex(it.Key(), fill(it.Value()))
	}
	return out
}

func fillStruct(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	for i := range v.NumField() {
		if f := out.Field(i); f.CanSet() {
			f.Set(fill(f))
		}
	}
	return out
}
