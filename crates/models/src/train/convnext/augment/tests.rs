use std::path::Path;

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::*;

/// What torchvision did: scripts/fixtures/rand_augment.py.
fn golden() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/rand_augment.safetensors")).unwrap()
}

/// What `torchvision` calls the operations, in its order.
fn names(golden: &[u8]) -> Vec<String> {
    let metadata = SafeTensors::read_metadata(golden).unwrap().1;
    metadata.metadata().as_ref().unwrap()["operations"].split(',').map(str::to_owned).collect()
}

fn images(bytes: &[u8]) -> Vec<Image> {
    bytes.chunks_exact(FEATURES).map(|image| image.try_into().unwrap()).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_le_bytes(word)).collect()
}

fn signs(operation: &Operation) -> &'static [bool] {
    if matches!(operation.strength, Strength::Signed(_)) { &[false, true] } else { &[false] }
}

fn applied(operation: &Operation, image: &Image, magnitude: usize, negative: bool) -> Image {
    let mut changed = *image;
    (operation.apply)(&mut changed, operation.strength.at(magnitude, negative));
    changed
}

#[test]
fn magnitudes_are_those_of_torchvision() {
    let bytes = golden();
    let names = names(&bytes);
    assert_eq!(names.len(), OPERATIONS.len());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, Operation { strength, .. }) in names.iter().zip(&OPERATIONS) {
        match file.tensor(&format!("magnitudes.{name}")) {
            Ok(table) => {
                let table: Vec<f64> = words(table.data()).into_iter().map(f64::from_bits).collect();
                let ours: Vec<f64> = (0..=LARGEST_MAGNITUDE).map(|magnitude| strength.at(magnitude, false)).collect();
                assert_eq!(ours, table, "{name}");
            }
            Err(_) => assert!(matches!(strength, Strength::None), "{name}"),
        }
    }
}

#[test]
fn pixels_are_those_of_torchvision() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let inputs = images(file.tensor("images").unwrap().data());
    let mut wrong = Vec::new();
    for (name, operation) in names(&bytes).iter().zip(&OPERATIONS) {
        let shown = images(file.tensor(&format!("pixels.{name}")).unwrap().data());
        assert_eq!(shown.len(), signs(operation).len());
        for (&negative, expected) in signs(operation).iter().zip(&shown) {
            let found = applied(operation, &inputs[0], 9, negative);
            let different = (0..FEATURES).find(|&place| found[place] != expected[place]);
            wrong.extend(
                different.map(|place| {
                    format!("{name}, negative {negative}: pixel {place} is {} and should be {}", found[place], expected[place])
                }),
            );
        }
        let digests = file.tensor(&format!("digests.{name}")).unwrap();
        let magnitudes = digests.shape()[2];
        assert_eq!(digests.shape()[..2], [inputs.len(), shown.len()]);
        let mut digests = words(digests.data()).into_iter();
        for (number, input) in inputs.iter().enumerate() {
            for &negative in signs(operation) {
                for magnitude in 0..magnitudes {
                    let hash = Sha256::digest(applied(operation, input, magnitude, negative));
                    if digests.next() != Some(words(&hash)[0]) {
                        wrong.push(format!("{name}, negative {negative}: image {number} differs at magnitude {magnitude}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_operation_and_sign_is_drawn_equally_often() {
    let settings = RandAugment { operations: 2, magnitude: 9 };
    let mut counts = [[0.0f64; 2]; OPERATIONS.len()];
    let mut pairs = 0.0;
    let (steps, images) = (200, 128);
    for step in 0..steps {
        let drawn = Operations::draw(settings, 7, step, images).drawn;
        assert_eq!(drawn.len(), 2 * images);
        drawn.iter().for_each(|drawn| counts[drawn.operation][usize::from(drawn.negative)] += 1.0);
        pairs += drawn.chunks_exact(2).filter(|pair| pair[0].operation == pair[1].operation).count() as f64;
    }
    let total = (steps * images) as f64;
    let far = |count: f64, of: f64, share: f64| (count - of * share).abs() > 4.5 * (of * share * (1.0 - share)).sqrt();
    assert!(!counts.iter().flatten().any(|&count| far(count, 2.0 * total, 1.0 / 28.0)), "{counts:?}");
    // Drawn with replacement, one independent of the other.
    assert!(!far(pairs, total, 1.0 / 14.0), "{pairs}");
}

#[test]
fn draws_are_a_function_of_seed_and_step() {
    let settings = RandAugment { operations: 3, magnitude: 0 };
    let drawn = |seed, step, images| Operations::draw(settings, seed, step, images).drawn;
    assert_eq!(drawn(1, 5, 20), drawn(1, 5, 20));
    assert_eq!(drawn(1, 5, 20)[..30], drawn(1, 5, 10)[..]);
    assert_ne!(drawn(1, 5, 20), drawn(1, 6, 20));
    assert_ne!(drawn(1, 5, 20), drawn(2, 5, 20));
}

#[test]
fn operations_follow_one_another() {
    let image: Image = std::array::from_fn(|place| (place % 251) as u8);
    let names = names(&golden());
    let place = |wanted| names.iter().position(|name| name == wanted).unwrap();
    let draw = |name| Drawn { operation: place(name), negative: name == "TranslateX" };
    let drawn = ["Identity", "Solarize", "TranslateX", "Equalize"].map(draw).to_vec();
    let operations = Operations { settings: RandAugment { operations: 2, magnitude: 9 }, drawn };
    let mut found = [image, image];
    operations.apply(0, &mut found[0]);
    operations.apply(1, &mut found[1]);
    assert!(found[0] == applied(&OPERATIONS[place("Solarize")], &image, 9, false));
    let moved = applied(&OPERATIONS[place("TranslateX")], &image, 9, true);
    // Four pixels to the left: the sign counts, and what comes in is black.
    assert_eq!((moved[SIDE..SIDE + 28].to_vec(), &moved[60..64]), (image[SIDE + 4..2 * SIDE].to_vec(), &[0; 4][..]));
    assert!(found[1] == applied(&OPERATIONS[place("Equalize")], &moved, 9, false));
}
