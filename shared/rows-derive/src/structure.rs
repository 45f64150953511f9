//! Struct whose fields become columns.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, LitStr, Type};

use crate::names;

/// Struct with its columns.
pub(crate) struct Structure<'a> {
    name: &'a Ident,
    columns: Vec<Column<'a>>,
}

/// Field of the struct, and the name of its column.
struct Column<'a> {
    field: &'a Ident,
    data_type: &'a Type,
    name: String,
}

impl<'a> Structure<'a> {
    /// Reads a struct.
    ///
    /// # Errors
    /// It is no struct with named fields, or the names of its columns are wrong. All wrong names are
    /// reported together.
    pub(crate) fn of(input: &'a DeriveInput) -> syn::Result<Self> {
        let is_plain = input.generics.params.is_empty();
        let no_struct = || Error::new_spanned(&input.ident, "must be a struct with named fields");
        let Data::Struct(data) = &input.data else { return Err(no_struct()) };
        let Fields::Named(fields) = &data.fields else { return Err(no_struct()) };
        if !is_plain {
            return Err(Error::new_spanned(&input.generics, "must not have parameters"));
        }
        if fields.named.is_empty() {
            return Err(Error::new_spanned(&input.ident, "must have a field"));
        }
        let mut names = Vec::new();
        let mut faults: Option<Error> = None;
        let mut columns = Vec::new();
        for field in &fields.named {
            match column(field, &names) {
                Ok(column) => {
                    names.push(column.name.clone());
                    columns.push(column);
                }
                Err(fault) => match &mut faults {
                    Some(faults) => faults.combine(fault),
                    None => faults = Some(fault),
                },
            }
        }
        match faults {
            Some(faults) => Err(faults),
            None => Ok(Self { name: &input.ident, columns }),
        }
    }

    /// Returns the code for the columns and cells of the struct.
    pub(crate) fn fields(&self) -> TokenStream {
        let name = self.name;
        // The span lets an error about a type point to the field.
        let columns = self.columns.iter().map(|Column { data_type, name, .. }| {
            quote_spanned! { data_type.span() => <#data_type as ::rows::field::Field>::column(#name) }
        });
        let cells = self.columns.iter().map(|Column { field, data_type, .. }| {
            quote_spanned! { data_type.span() =>
                <#data_type as ::rows::field::Field>::cell(self.#field)
            }
        });
        quote! {
            impl ::rows::field::Fields for #name {
                fn columns() -> ::std::vec::Vec<::rows::column::Column> {
                    ::std::vec![#(#columns),*]
                }

                fn cells(self) -> ::std::vec::Vec<::rows::cell::Cell> {
                    ::std::vec![#(#cells),*]
                }
            }
        }
    }
}

fn column<'a>(field: &'a Field, earlier: &[String]) -> syn::Result<Column<'a>> {
    let Some(ident) = &field.ident else {
        return Err(Error::new_spanned(field, "must have a name"));
    };
    let name = given_name(field)?.unwrap_or_else(|| ident.unraw().to_string());
    match names::fault(&name, earlier) {
        Some(fault) => Err(Error::new_spanned(ident, fault)),
        None => Ok(Column { field: ident, data_type: &field.ty, name }),
    }
}

/// Returns the name in `#[row(name = "..")]`.
fn given_name(field: &Field) -> syn::Result<Option<String>> {
    let mut given = None;
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("must be `name = \"..\"`"));
            }
            given = Some(meta.value()?.parse::<LitStr>()?.value());
            Ok(())
        })?;
    }
    Ok(given)
}
