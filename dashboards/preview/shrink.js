// Fewer colours make the picture of a dashboard a third as large: node shrink.js IN OUT COLOURS
"use strict";

const fs = require("fs");
const UPNG = require("upng-js");

const [, , from, to, colours] = process.argv;
const picture = UPNG.decode(fs.readFileSync(from));
const [pixels] = UPNG.toRGBA8(picture);
fs.writeFileSync(to, Buffer.from(UPNG.encode([pixels], picture.width, picture.height, Number(colours))));
