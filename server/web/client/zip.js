// A ZIP archive of files as they are, for pictures do not get smaller. Pure. (PKWARE's APPNOTE, without compression.)

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

/** The archive of [{ name, bytes }] as a Blob. */
export function zip(files, at = new Date()) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const path = new TextEncoder().encode(name);
    const common = [...word(20), ...word(0x0800), ...word(0), ...stamp(at), ...long(crc32(bytes)), ...long(bytes.length), ...long(bytes.length), ...word(path.length), ...word(0)];
    const head = Uint8Array.from([...long(0x04034b50), ...common]);
    directory.push(Uint8Array.from([...long(0x02014b50), ...word(20), ...common, ...word(0), ...word(0), ...word(0), ...long(0), ...long(offset)]), path);
    parts.push(head, path, bytes);
    offset += head.length + path.length + bytes.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const count = word(files.length);
  const end = Uint8Array.from([...long(0x06054b50), ...word(0), ...word(0), ...count, ...count, ...long(length), ...long(offset), ...word(0)]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

const word = (n) => [n & 255, (n >>> 8) & 255];
const long = (n) => [...word(n), ...word(n >>> 16)];

function stamp(at) {
  const time = (at.getHours() << 11) | (at.getMinutes() << 5) | (at.getSeconds() >> 1);
  return [...word(time), ...word(((at.getFullYear() - 1980) << 9) | ((at.getMonth() + 1) << 5) | at.getDate())];
}

function crc32(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}
