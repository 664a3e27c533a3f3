//! The format of the hub: a table with the columns `img`, a structure with the `bytes` of a PNG file, and `label`.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::{COLORS, FEATURES, Images, SIDE, fault, io};
use crate::error::DataError;
use crate::text::parquet_column::guarded;

/// Rows decoded at once.
const BATCH: usize = 256;

/// Adds the images of a table.
pub(super) fn read(path: &Path, images: &mut Images) -> Result<(), DataError> {
    let file = File::open(path).map_err(|source| io(path, source))?;
    let broken = |problem: String| fault(path, format!("it is no whole parquet table ({problem})"));
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let column = |names: &[&str], kind: PhysicalType| {
        let found = schema.columns().iter().position(|column| column.path().parts() == names);
        let found = found.filter(|&place| schema.column(place).physical_type() == kind && schema.column(place).max_rep_level() == 0);
        found.ok_or_else(|| {
            fault(path, format!("it has no column `{}` of {kind}: the tables of CIFAR-10 on the hub have one", names.join(".")))
        })
    };
    let files = column(&["img", "bytes"], PhysicalType::BYTE_ARRAY)?;
    let labels = column(&["label"], PhysicalType::INT64)?;
    let levels = schema.column(files).max_def_level();
    let mut pixels = Vec::new();
    for group in 0..reader.num_row_groups() {
        let rows = reader.metadata().row_group(group).num_rows().max(0) as usize;
        let open = |place: usize| guarded(|| reader.get_row_group(group)?.get_column_reader(place)).map_err(broken);
        let mut files = get_typed_column_reader::<ByteArrayType>(open(files)?);
        let mut labels = get_typed_column_reader::<Int64Type>(open(labels)?);
        let mut done = 0;
        while done < rows {
            let (mut some, mut of_some, mut found): (Vec<ByteArray>, Vec<i64>, Vec<i16>) = Default::default();
            let (count, ..) = guarded(|| files.read_records(BATCH, Some(&mut found), None, &mut some)).map_err(broken)?;
            let mut present = Vec::new();
            guarded(|| labels.read_records(count, Some(&mut present), None, &mut of_some)).map_err(broken)?;
            if count == 0 || some.len() != count || of_some.len() != count || found.iter().any(|&level| level < levels) {
                return Err(fault(path, format!("row {} lacks an image or a label", images.count())));
            }
            for (file, label) in some.iter().zip(of_some) {
                let row = images.count();
                decode(file.data(), &mut pixels).map_err(|problem| fault(path, format!("the image of row {row} {problem}")))?;
                images.push(path, u8::try_from(label).unwrap_or(u8::MAX), &pixels)?;
            }
            done += count;
        }
    }
    Ok(())
}

/// A PNG file, color by color.
fn decode(file: &[u8], pixels: &mut Vec<u8>) -> Result<(), String> {
    let broken = |error: png::DecodingError| format!("is no PNG file ({error})");
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(broken)?;
    let info = reader.info();
    if (info.width, info.height) != (SIDE as u32, SIDE as u32) {
        return Err(format!("has {} x {} pixels: expected {SIDE} x {SIDE}", info.width, info.height));
    }
    let mut values = vec![0u8; reader.output_buffer_size()];
    let frame = reader.next_frame(&mut values).map_err(broken)?;
    let samples = frame.color_type.samples();
    if samples < COLORS {
        return Err("is gray: expected three colors".to_owned());
    }
    pixels.clear();
    pixels.resize(FEATURES, 0);
    for (place, values) in values.chunks_exact(samples).take(SIDE * SIDE).enumerate() {
        for (color, &value) in values.iter().take(COLORS).enumerate() {
            pixels[color * SIDE * SIDE + place] = value;
        }
    }
    Ok(())
}
